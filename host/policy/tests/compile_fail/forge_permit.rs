//! A permit is not made by naming its field.
use keyward_policy::{Permit, PermitParts};

fn forge(parts: PermitParts) -> Permit {
    Permit { parts }
}

fn main() {}
