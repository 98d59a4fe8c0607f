#![doc = "Fuzzes [`msgkit_fuzz::config`]."]
#![cfg_attr(fuzzing, no_main)]

msgkit_fuzz::target!(config);
