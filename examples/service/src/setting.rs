//! Settings, from the environment.

/// The value of the variable `name`; the service ends with a message and status 2 when it is not set.
pub fn required(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| wrong(&format!("{name} is not set")))
}

/// The value of the variable `name`, else `default`.
pub fn optional(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Ends the service with a message and status 2: it cannot start like this.
pub fn wrong(what: &str) -> ! {
    eprintln!("{what}");
    std::process::exit(2)
}
