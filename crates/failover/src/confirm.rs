//! R3, R9 and R17.
