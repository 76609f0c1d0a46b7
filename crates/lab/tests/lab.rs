//! tests
fn main() {
    if let Some(code) = tandem_lab::run_hidden() {
        std::process::exit(if code == std::process::ExitCode::SUCCESS { 0 } else { 1 });
    }
}
