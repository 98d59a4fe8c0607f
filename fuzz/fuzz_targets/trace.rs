#![doc = "Fuzzes [`msgkit_fuzz::trace`]."]
#![cfg_attr(fuzzing, no_main)]

msgkit_fuzz::target!(trace);
