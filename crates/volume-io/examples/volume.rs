//! A volume server or an attach driver as a process of its own, for the tests and for trying things out:
//! `volume serve CONFIG_JSON`, `volume attach-file|attach-device SOCKET EXPORT MOUNTPOINT`.

use std::{error::Error, process::ExitCode};
use tandem_volume_io::{
    attach::{self, device::DeviceAttach, file::FileAttach},
    server,
};

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("error: {error}");
            let mut cause = error.source();
            while let Some(deeper) = cause {
                eprint!(": {deeper}");
                cause = deeper.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", config] => server::run(&serde_json::from_str(config)?)?,
        [kind @ ("attach-file" | "attach-device"), socket, export, mountpoint] => {
            let file = FileAttach { nbd_socket: socket.into(), export: export.parse()?, mountpoint: mountpoint.into() };
            match kind {
                "attach-file" => attach::file::run(&file)?,
                _ => attach::device::run(&DeviceAttach { file })?,
            }
        }
        _ => {
            return Err(
                "usage: volume serve CONFIG_JSON | volume attach-file|attach-device SOCKET EXPORT MOUNTPOINT".into()
            );
        }
    }
    Ok(())
}
