#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| world::fuzz::ini(data));
