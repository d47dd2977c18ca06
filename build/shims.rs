//! One binary for machines with and without an NVIDIA driver (Linux).
//!
//! candle links CUDA's libraries directly, so its programs do not start where one of them is missing. Here the linker is
//! given stand-ins of the same names, found before the real ones: each function is a jump through a table, filled when the
//! program starts with what `dlopen` finds. Where a library is missing the jumps lead to a function that answers with that
//! library's own "not there", so the first call of the driver says so and the processor does the work.
//!
//! The names come from the declarations in the `cudarc` that Cargo.lock pins. Nothing of CUDA is needed for linking but
//! `libcudart_static.a`, which comes with every compiler.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

struct Library {
    /// As in `-l<name>`.
    name: &'static str,
    /// Folder of its declarations in cudarc.
    module: &'static str,
    /// Versions of the real file to try after the compiler's own, newest first.
    versions: &'static [&'static str],
    /// What its functions answer when it is missing.
    missing: i32,
}

const LIBRARIES: &[Library] = &[
    // CUDA_ERROR_NO_DEVICE
    Library { name: "cuda", module: "driver", versions: &["1"], missing: 100 },
    // CUBLAS_STATUS_NOT_INITIALIZED, for both
    Library { name: "cublas", module: "cublas", versions: &["13", "12"], missing: 1 },
    Library { name: "cublasLt", module: "cublaslt", versions: &["13", "12"], missing: 1 },
    // CURAND_STATUS_INITIALIZATION_FAILED
    Library { name: "curand", module: "curand", versions: &["10"], missing: 203 },
    // NVRTC_ERROR_INTERNAL_ERROR
    Library { name: "nvrtc", module: "nvrtc", versions: &["13", "12"], missing: 11 },
];

/// Makes the stand-ins under `out` and tells cargo to look there first. Other systems than Linux link as candle does.
pub fn link(out: &Path) -> Result<(), String> {
    if env("CARGO_CFG_TARGET_OS") != "linux" {
        return Ok(());
    }
    let jump = match env("CARGO_CFG_TARGET_ARCH").as_str() {
        "x86_64" => "jmp *{table}+{offset}(%rip)",
        "aarch64" => "adrp x16, {table}+{offset}\\n ldr x16, [x16, :lo12:{table}+{offset}]\\n br x16",
        other => return Err(format!("no stand-ins for CUDA's libraries on {other}: x86_64 and aarch64 have them")),
    };
    let Some(runtime) = find_static_runtime() else {
        println!(
            "cargo:warning=libcudart_static.a was not found (set CUDA_HOME): the binary will start only where CUDA's \
             libraries are installed"
        );
        return Ok(());
    };
    let cudarc = cudarc_sources()?;
    let folder = out.join("shims");
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for library in LIBRARIES {
        let declarations = cudarc.join(format!("src/{}/sys/mod.rs", library.module));
        let text = read(&declarations)?;
        let functions = declared(&text);
        if functions.is_empty() {
            return Err(format!("no function is declared in {}", declarations.display()));
        }
        let source = folder.join(format!("{}.c", library.name));
        write(&source, &program(library, &functions, jump))?;
        let object = folder.join(format!("{}.o", library.name));
        run(Command::new(compiler()).args(["-O1", "-fPIC", "-w", "-c", "-o"]).arg(&object).arg(&source))?;
        // An archive, so that a library nobody calls is left out; and a linker script under the name asked for.
        let archive = folder.join(format!("lib{}_shim.a", library.name));
        // What `ar` would add to may be a leftover.
        let _ = std::fs::remove_file(&archive);
        run(Command::new(std::env::var("AR").unwrap_or("ar".into())).arg("rcs").arg(&archive).arg(&object))?;
        write(&folder.join(format!("lib{}.so", library.name)), &format!("INPUT({} -ldl)\n", archive.display()))?;
    }
    write(&folder.join("libcudart.so"), &format!("INPUT({} -ldl -lrt -lpthread)\n", runtime.display()))?;
    println!("cargo:rustc-link-search=native={}", folder.display());
    Ok(())
}

/// The functions of one library: name, and whether it answers with a text instead of a status.
fn declared(text: &str) -> Vec<(String, bool)> {
    let mut functions: Vec<(String, bool)> = text
        .split("extern \"C\" {")
        .skip(1)
        .filter_map(|rest| {
            let declaration = rest.split('}').next()?.trim().strip_prefix("fn ")?;
            let name = declaration.split('(').next()?.trim().to_string();
            Some((name, declaration.ends_with("-> *const ::core::ffi::c_char;")))
        })
        .collect();
    functions.sort();
    functions.dedup();
    functions
}

/// The C source of one stand-in.
fn program(library: &Library, functions: &[(String, bool)], jump: &str) -> String {
    let name = library.name;
    let table = format!("thermocline_{name}_table");
    let mut c = String::from("#include <dlfcn.h>\n#include <stdio.h>\n#include <stdlib.h>\n");
    let major = toolkit_major();
    let mut files: Vec<String> = library.versions.iter().map(|v| format!("lib{name}.so.{v}")).collect();
    // The release it was compiled with first: the same function may mean something else in another.
    files.sort_by_key(|f| !major.as_ref().is_some_and(|m| f.ends_with(&format!(".{m}"))));
    files.push(format!("lib{name}.so"));
    let list = |items: &mut dyn Iterator<Item = String>| items.map(|i| format!("\"{i}\", ")).collect::<String>();
    let _ = writeln!(c, "static const char *const names[] = {{{}}};", list(&mut functions.iter().map(|f| f.0.clone())));
    let _ = writeln!(c, "static const char *const files[] = {{{}}};", list(&mut files.into_iter()));
    let texts: String = functions.iter().map(|f| if f.1 { "1," } else { "0," }).collect();
    let _ = writeln!(c, "static const char text[] = {{{texts}}};");
    let _ = writeln!(c, "__attribute__((visibility(\"hidden\"))) void *{table}[{}];", functions.len());
    let _ = writeln!(c, "static long missing(void) {{ return {}; }}", library.missing);
    let _ = writeln!(c, "static const char *nothing(void) {{ return \"lib{name} was not found\"; }}");
    c.push_str(LOAD);
    let _ = writeln!(
        c,
        "__attribute__((constructor)) static void fill(void) {{\n    void *library = find();\n    \
         for (unsigned i = 0; i < sizeof text; i++) {{\n        \
         void *found = library ? dlsym(library, names[i]) : 0;\n        \
         {table}[i] = found ? found : text[i] ? (void *)nothing : (void *)missing;\n    }}\n}}"
    );
    for (i, (function, _)) in functions.iter().enumerate() {
        let jump = jump.replace("{table}", &table).replace("{offset}", &(8 * i).to_string());
        let _ = writeln!(
            c,
            "__asm__(\".text\\n.globl {function}\\n.type {function},%function\\n{function}: {jump}\\n\
             .size {function}, .-{function}\");"
        );
    }
    c
}

/// Where the real library is looked for: as the system does, then where toolkits are installed.
const LOAD: &str = r#"static void *find(void) {
    const char *home = getenv("CUDA_HOME"), *path = getenv("CUDA_PATH");
    const char *const folders[] = {"", home, path, "/usr/local/cuda", "/opt/cuda"};
    const char *const under[] = {"lib64", "lib"};
    for (unsigned f = 0; f < sizeof files / sizeof *files; f++)
        for (unsigned d = 0; d < sizeof folders / sizeof *folders; d++)
            for (unsigned u = 0; u < 2; u++) {
                char name[4096];
                if (!folders[d] || (d > 0 && !*folders[d])) continue;
                if (d == 0) snprintf(name, sizeof name, "%s", files[f]);
                else snprintf(name, sizeof name, "%s/%s/%s", folders[d], under[u], files[f]);
                void *library = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
                if (library) return library;
            }
    return 0;
}
"#;

/// The first number of the compiler's release.
fn toolkit_major() -> Option<String> {
    let answer = Command::new("nvcc").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    Some(text.split("release ").nth(1)?.split('.').next()?.to_string())
}

fn find_static_runtime() -> Option<PathBuf> {
    for name in ["CUDA_HOME", "CUDA_PATH", "NVCC"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let roots = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(std::env::var_os).map(PathBuf::from);
    let beside =
        cudaforge::CudaToolkit::detect().ok().and_then(|t| Some(t.nvcc_path.parent()?.parent()?.to_path_buf()));
    let usual = ["/usr/local/cuda", "/opt/cuda", "/usr"].into_iter().map(PathBuf::from);
    let machine = format!("targets/{}-linux/lib", env("CARGO_CFG_TARGET_ARCH"));
    let gnu = format!("lib/{}-linux-gnu", env("CARGO_CFG_TARGET_ARCH"));
    roots
        .chain(beside)
        .chain(usual)
        .flat_map(|root| ["lib64", "lib", &machine, &gnu].map(|lib| root.join(lib).join("libcudart_static.a")))
        .find(|file| file.is_file())
}

/// The folder of cudarc's sources, wherever cargo keeps them.
fn cudarc_sources() -> Result<PathBuf, String> {
    let mut cargo = Command::new(env("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--offline", "--locked", "--features", "cuda", "--manifest-path"]);
    cargo.arg(Path::new(&env("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    // Crates of other platforms were never fetched.
    cargo.args(["--filter-platform", &env("TARGET")]);
    let answer = cargo.output().map_err(|e| format!("cargo metadata: {e}"))?;
    let text = String::from_utf8_lossy(&answer.stdout);
    let manifest = text
        .split("\"manifest_path\":\"")
        .filter_map(|rest| rest.split('"').next())
        .find(|path| Path::new(path).parent().and_then(Path::file_name).is_some_and(|n| named(n, "cudarc")));
    let manifest = manifest
        .ok_or_else(|| format!("cargo metadata names no cudarc: {}", String::from_utf8_lossy(&answer.stderr).trim()))?;
    Ok(Path::new(manifest).parent().expect("a manifest lies in a folder").to_path_buf())
}

/// `cudarc` or `cudarc-0.19.10`, but not `cudarc-sys`.
fn named(folder: &std::ffi::OsStr, name: &str) -> bool {
    let rest = folder.to_str().and_then(|f| f.strip_prefix(name));
    rest.is_some_and(|r| {
        r.is_empty() || r.strip_prefix('-').is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()))
    })
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}

/// The C compiler for the target: `CC`, or the cross compiler's usual name.
fn compiler() -> String {
    println!("cargo:rerun-if-env-changed=CC");
    println!("cargo:rerun-if-env-changed=AR");
    let native = env("HOST") == env("TARGET");
    let usual = if native { "cc".to_string() } else { format!("{}-linux-gnu-gcc", env("CARGO_CFG_TARGET_ARCH")) };
    std::env::var("CC").unwrap_or(usual)
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|e| format!("{command:?}: {e}; a C compiler and ar are needed"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed ({status})")) }
}
