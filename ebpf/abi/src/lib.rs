//! The repr(C) records shared by the kernel side and the user side.
#![no_std]
