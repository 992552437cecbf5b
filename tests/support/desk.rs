//! A folder with a manifest, a home and a store of its own, for the operator's command as a process.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use bramble_fleet::generation::Bundle;
use bramble_fleet::ids::Digest;
use bramble_fleet::units::Bytes;

/// A folder with a manifest in it, and a home of its own.
pub(crate) struct Desk {
    pub(crate) folder: tempfile::TempDir,
}

impl Desk {
    pub(crate) fn new(manifest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["home", "state", "cache", "run", "bundles"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let desk = Self { folder };
        desk.write(manifest);
        desk
    }

    /// Writes the manifest; `FOLDER` is this desk's.
    pub(crate) fn write(&self, manifest: &str) {
        let text = manifest.replace("FOLDER", &self.path("").display().to_string());
        fs::write(self.path("fleet.yaml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bramble"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.path("home"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_DATA_HOME", self.path("data"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("BRAMBLE_BUNDLES", self.path("bundles"))
            .env("HF_ENDPOINT", "http://127.0.0.1:1")
            // where whoever runs the tests found llama.cpp's libraries
            .envs(std::env::var_os("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path)))
            .stdin(Stdio::null());
        command
    }

    /// Makes a bundle for this machine of an archive.
    pub(crate) fn put_bundle(&self, archive: &[u8]) {
        let machine = rustix::system::uname().machine().to_str().unwrap().to_owned();
        let bundle = Bundle {
            format: 1,
            target: format!("{machine}-unknown-linux-gnu"),
            machine,
            file: "bundle.tar.gz".to_owned(),
            digest: Digest::of(archive),
            bytes: Bytes(archive.len() as u64),
            unpacked_bytes: Bytes(1),
            version: "0.1.0".to_owned(),
            glibc: "2.17".to_owned(),
            gpu: None,
        };
        fs::write(self.path("bundles").join(&bundle.file), archive).unwrap();
        fs::write(self.path("bundles/bundle.json"), serde_json::to_vec(&bundle).unwrap()).unwrap();
    }
}
