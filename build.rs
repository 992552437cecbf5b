//! Tells the linker where llama.cpp's shared libraries will be found.

#![expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts through the environment")]

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_LLAMA").is_none() {
        return;
    }
    // On a host the libraries lie beside the program, and nowhere else. The old kind of
    // tag (DT_RPATH), since the new one does not hold for what the libraries need themselves,
    // and gives way to LD_LIBRARY_PATH.
    let (at_program, old_kind) =
        if env::var_os("CARGO_CFG_TARGET_VENDOR").is_some_and(|vendor| vendor == "apple") {
            // Apple's linker has one kind, and another word for where the program is
            ("@loader_path", "")
        } else {
            // an id is of what was there before it was stripped, which names the folder of the build
            println!("cargo:rustc-link-arg-bin=brambled=-Wl,--build-id=none");
            ("$ORIGIN", "--disable-new-dtags,")
        };
    println!("cargo:rustc-link-arg-bin=brambled=-Wl,{old_kind}-rpath,{at_program}/lib");
    // Tests make themselves such a folder from what cargo built. No program is told of it.
    println!("cargo:rerun-if-env-changed=DEP_LLAMA_ROOT");
    if let Ok(root) = env::var("DEP_LLAMA_ROOT") {
        println!("cargo:rustc-env=BRAMBLE_BUILT_LLAMA={root}");
        // (a package without its tests has no target for that, which is an error)
        if std::path::Path::new("tests/engine.rs").exists() {
            println!("cargo:rustc-link-arg-tests=-Wl,{old_kind}-rpath,{root}/lib");
        }
    }
}
