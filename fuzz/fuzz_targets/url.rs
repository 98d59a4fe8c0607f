#![doc = "Fuzzes [`msgkit_fuzz::url`]."]
#![cfg_attr(fuzzing, no_main)]

msgkit_fuzz::target!(url);
