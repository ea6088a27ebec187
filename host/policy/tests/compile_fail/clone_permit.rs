//! A permit is not copied.
use keyward_policy::Permit;

fn twice(permit: &Permit) -> Permit {
    permit.clone()
}

fn also<T: Clone>(value: T) -> T {
    value
}

fn bound(permit: Permit) {
    also(permit);
}

fn main() {}
