#![doc = "Fuzzes [`msgkit_fuzz::attributes`]."]
#![cfg_attr(fuzzing, no_main)]

msgkit_fuzz::target!(attributes);
