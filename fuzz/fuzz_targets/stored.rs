#![doc = "Fuzzes [`msgkit_fuzz::stored`]."]
#![cfg_attr(fuzzing, no_main)]

msgkit_fuzz::target!(stored);
