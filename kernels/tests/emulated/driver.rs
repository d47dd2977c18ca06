//! An NVIDIA device through the driver's own interface, opened at run time: what this suite needs of it and no more.

use super::kernels::cuda::{Argument, File, Launch};
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::path::Path;

type Handle = *mut c_void;

/// The driver's functions by their C types. All answer 0 where they succeed.
macro_rules! functions {
    ($($field:ident $symbol:literal ($($argument:ty),*);)*) => {
        struct Functions { $($field: unsafe extern "C" fn($($argument),*) -> c_int,)* }

        impl Functions {
            fn load() -> Functions {
                // SAFETY: the library's initialisers are the driver's own.
                let library = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW) };
                assert!(!library.is_null(), "THERMOCLINE_PTX is set, but there is no NVIDIA driver (libcuda.so.1)");
                Functions { $($field: {
                    let name = CString::new($symbol).expect("names have no zeros");
                    // SAFETY: a live library and a name that ends with a zero.
                    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
                    assert!(!found.is_null(), "libcuda.so.1 has no {}", $symbol);
                    // SAFETY: the driver's interface gives this symbol this type.
                    unsafe { std::mem::transmute::<Handle, unsafe extern "C" fn($($argument),*) -> c_int>(found) }
                },)* }
            }
        }
    };
}

functions! {
    init "cuInit" (c_uint);
    device "cuDeviceGet" (*mut c_int, c_int);
    name "cuDeviceGetName" (*mut c_char, c_int, c_int);
    retain "cuDevicePrimaryCtxRetain" (*mut Handle, c_int);
    current "cuCtxSetCurrent" (Handle);
    wait "cuCtxSynchronize" ();
    module "cuModuleLoadData" (*mut Handle, *const c_void);
    function "cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
    alloc "cuMemAlloc_v2" (*mut u64, usize);
    free "cuMemFree_v2" (u64);
    to_device "cuMemcpyHtoD_v2" (u64, *const c_void, usize);
    from_device "cuMemcpyDtoH_v2" (*mut c_void, u64, usize);
    on_device "cuMemcpyDtoD_v2" (u64, u64, usize);
    launch "cuLaunchKernel" (
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut Handle, *mut Handle
    );
    event "cuEventCreate" (*mut Handle, c_uint);
    record "cuEventRecord" (Handle, Handle);
    wait_event "cuEventSynchronize" (Handle);
    elapsed "cuEventElapsedTime" (*mut f32, Handle, Handle);
}

pub struct Driver {
    functions: Functions,
    context: usize,
    modules: [usize; 3],
    pub name: String,
}

fn check(status: c_int, what: &str) {
    assert_eq!(status, 0, "{what}: the driver answers {status}");
}

impl Driver {
    /// Device 0, with the kernels in `folder`.
    pub fn open(folder: &Path) -> Driver {
        let functions = Functions::load();
        let (mut device, mut context, mut name) = (0, std::ptr::null_mut(), [0u8; 128]);
        // SAFETY: each call gets places of the types it writes; the modules' texts end with a zero.
        unsafe {
            check((functions.init)(0), "cuInit");
            check((functions.device)(&mut device, 0), "cuDeviceGet");
            check((functions.name)(name.as_mut_ptr().cast(), 127, device), "cuDeviceGetName");
            check((functions.retain)(&mut context, device), "cuDevicePrimaryCtxRetain");
            check((functions.current)(context), "cuCtxSetCurrent");
        }
        let modules = ["rows", "experts", "attend"].map(|file| {
            let path = folder.join(format!("{file}.ptx"));
            let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let (text, mut module) = (CString::new(text).expect("texts have no zeros"), std::ptr::null_mut());
            // SAFETY: a text that ends with a zero, and a place for a handle.
            check(unsafe { (functions.module)(&mut module, text.as_ptr().cast()) }, "cuModuleLoadData");
            module as usize
        });
        let name = String::from_utf8_lossy(name.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
        Driver { functions, context: context as usize, modules, name }
    }

    /// Makes the device this thread's: tests run in threads of their own.
    pub fn bind(&self) {
        // SAFETY: the context is never released.
        check(unsafe { (self.functions.current)(self.context as Handle) }, "cuCtxSetCurrent");
    }

    pub fn launch(&self, launch: &Launch) {
        let module = match launch.file {
            File::Rows => self.modules[0],
            File::Experts => self.modules[1],
            File::Attend => self.modules[2],
        };
        let (name, mut function) = (CString::new(launch.kernel.as_str()).expect("no zeros"), std::ptr::null_mut());
        let mut words = words(launch);
        let mut pointers: Vec<Handle> = words.iter_mut().map(|w| std::ptr::from_mut(w).cast()).collect();
        let ([x, y, z], no) = (launch.grid, std::ptr::null_mut());
        // SAFETY: as many and as wide arguments as the kernel takes; what they point to is what is tested.
        unsafe {
            check((self.functions.function)(&mut function, module as Handle, name.as_ptr()), &launch.kernel);
            let status = (self.functions.launch)(
                function,
                x,
                y,
                z,
                launch.threads,
                1,
                1,
                0,
                no,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            );
            check(status, &launch.kernel);
        }
    }

    pub fn wait(&self) {
        // SAFETY: nothing is asked but to wait.
        check(unsafe { (self.functions.wait)() }, "a kernel");
    }

    /// Microseconds of the device between the beginning and the end of what `work` launches.
    pub fn timed(&self, work: impl FnOnce()) -> f64 {
        let (mut begin, mut end, mut ms) = (std::ptr::null_mut(), std::ptr::null_mut(), 0f32);
        let f = &self.functions;
        // SAFETY: events made here, on the default stream.
        unsafe {
            check((f.event)(&mut begin, 0), "cuEventCreate");
            check((f.event)(&mut end, 0), "cuEventCreate");
            check((f.record)(begin, std::ptr::null_mut()), "cuEventRecord");
            work();
            check((f.record)(end, std::ptr::null_mut()), "cuEventRecord");
            check((f.wait_event)(end), "cuEventSynchronize");
            check((f.elapsed)(&mut ms, begin, end), "cuEventElapsedTime");
        }
        f64::from(ms) * 1e3
    }

    /// Copies on the device, both buffers `len` bytes long.
    pub fn copy(&self, to: u64, from: u64, len: usize) {
        // SAFETY: the caller's buffers are that long.
        check(unsafe { (self.functions.on_device)(to, from, len) }, "cuMemcpyDtoD");
    }
}

/// The arguments in words of eight bytes: narrower ones are in the first of them.
pub fn words(launch: &Launch) -> Vec<u64> {
    let word = |argument: &Argument| match *argument {
        Argument::Address(a) | Argument::Long(a) => a,
        Argument::Word(w) => u64::from(w),
        Argument::Float(f) => u64::from(f.to_bits()),
    };
    launch.arguments.iter().map(word).collect()
}

/// Memory of the device between two zones that nobody may write to.
pub struct Watched {
    driver: &'static Driver,
    first: u64,
    len: usize,
}

const ZONE: usize = 256;
const WATCHED: u8 = 0xa5;

impl Watched {
    pub fn of(driver: &'static Driver, bytes: &[u8]) -> Watched {
        let mut whole = vec![WATCHED; ZONE];
        whole.extend_from_slice(bytes);
        whole.resize(whole.len() + ZONE, WATCHED);
        let mut first = 0;
        // SAFETY: room for all of `whole`, which is copied there.
        unsafe {
            check((driver.functions.alloc)(&mut first, whole.len()), "cuMemAlloc");
            check((driver.functions.to_device)(first, whole.as_ptr().cast(), whole.len()), "cuMemcpyHtoD");
        }
        Watched { driver, first, len: bytes.len() }
    }

    pub fn address(&self) -> u64 {
        self.first + ZONE as u64
    }

    fn whole(&self) -> Vec<u8> {
        let mut whole = vec![0u8; self.len + 2 * ZONE];
        // SAFETY: as many bytes as were allocated.
        let status = unsafe { (self.driver.functions.from_device)(whole.as_mut_ptr().cast(), self.first, whole.len()) };
        check(status, "cuMemcpyDtoH");
        whole
    }

    pub fn read(&self) -> Vec<u8> {
        self.whole()[ZONE..ZONE + self.len].to_vec()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let whole = self.whole();
        let zones = whole[..ZONE].iter().chain(&whole[ZONE + self.len..]);
        assert!(zones.into_iter().all(|b| *b == WATCHED), "bytes around a buffer of {} were written", self.len);
        // SAFETY: this buffer's own memory, which nothing uses any more.
        check(unsafe { (self.driver.functions.free)(self.first) }, "cuMemFree");
    }
}
