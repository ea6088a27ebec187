//! A permit is not made by its constructor.
use keyward_policy::{Permit, PermitParts};

fn make(parts: PermitParts) -> Permit {
    Permit::new(parts)
}

fn main() {}
