//! A permit that was taken apart is gone.
use keyward_policy::Permit;

fn reuse(permit: Permit) {
    let parts = permit.into_parts();
    let again = permit.into_parts();
    drop((parts, again));
}

fn main() {}
