#![doc = "Fuzzes [`msgkit_fuzz::names`]."]
#![cfg_attr(fuzzing, no_main)]

msgkit_fuzz::target!(names);
