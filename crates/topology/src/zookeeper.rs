//! Reading, watching and conditional publishing over zookeeper-client.
