#![doc = "Fuzzes [`msgkit_fuzz::ingest`]."]
#![cfg_attr(fuzzing, no_main)]

msgkit_fuzz::target!(ingest);
