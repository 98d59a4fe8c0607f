#![doc = "Fuzzes [`msgkit_fuzz::structured`]."]
#![cfg_attr(fuzzing, no_main)]

msgkit_fuzz::target!(structured);
