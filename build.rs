//! Does something only under the feature `cuda`: compiles `kernels/cuda` for the accelerator, and sees to it that the
//! binary starts on machines that have none.

#[cfg(feature = "cuda")]
#[path = "build/shims.rs"]
mod shims;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    cuda();
}

#[cfg(feature = "cuda")]
fn cuda() {
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed=kernels/cuda");
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo names the folder of a build script"));
    // No fused multiply-add may be invented nor taken apart: sums have one order and one rounding, here as on the host.
    let built = cudaforge::KernelBuilder::new()
        .source_dir("kernels/cuda")
        .watch(["kernels/cuda/numbers.h", "kernels/cuda/blocks.h"])
        .arg("-std=c++17")
        .arg("-O3")
        .arg("--fmad=false")
        .build_ptx()
        .and_then(|ptx| ptx.write(out.join("ptx.rs")));
    if let Err(error) = built {
        refuse(&format!(
            "kernels/cuda did not compile: {error}. The feature `cuda` needs nvcc (CUDA 12 or 13) on PATH; \
             scripts/cuda_build fetches one."
        ));
    }
    if let Err(message) = shims::link(&out) {
        refuse(&message);
    }
}

/// Ends the build with one sentence instead of a panic's trace.
#[cfg(feature = "cuda")]
fn refuse(message: &str) -> ! {
    println!("cargo:error={message}");
    std::process::exit(1)
}
