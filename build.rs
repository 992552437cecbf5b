//! Tells the linker where llama.cpp's shared libraries will be found.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_LLAMA").is_none() {
        return;
    }
    // On a host the libraries lie beside the program, and nowhere else.
    println!("cargo:rustc-link-arg-bin=brambled=-Wl,-rpath,$ORIGIN/lib");
    // Tests use them where cargo built them; that folder is in no shipped program.
    println!("cargo:rerun-if-env-changed=DEP_LLAMA_ROOT");
    println!("cargo:rerun-if-env-changed=DEP_LLAMA_BACKENDS_DIR");
    // (a package without its tests has no target for that, which is an error)
    if let Ok(root) = env::var("DEP_LLAMA_ROOT")
        && std::path::Path::new("tests/engine.rs").exists()
    {
        println!("cargo:rustc-link-arg-tests=-Wl,-rpath,{root}/lib");
    }
    if let Ok(backends) = env::var("DEP_LLAMA_BACKENDS_DIR") {
        println!("cargo:rustc-env=BRAMBLE_BUILT_BACKENDS={backends}");
    }
}
