//! Which threads a server runs, from the CPUs that it may use.
//!
//! ONNX Runtime would start a thread for each core of the machine, also in a container that may use two of them. On a CPU
//! the work of a picture does not shrink by batching, so one session a core with one thread each answers the most pictures
//! a second; on a GPU two sessions keep it busy while one of them copies.

use std::num::NonZero;
use std::thread;

use moco_runtime::Device;
use serde::Serialize;

/// What the operator decides; the rest is planned.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadOptions {
    pub sessions: Option<usize>,
    pub intra_threads: Option<usize>,
    pub decode_threads: Option<usize>,
}

/// The threads of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// CPUs that this process may use, its container's limit included.
    pub cores: usize,
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// ONNX Runtime sessions, each owned by one thread.
    pub sessions: usize,
    /// Threads that share the work of one session's operation.
    pub intra_threads: usize,
    /// Threads that decode and prepare pictures.
    pub decode_threads: usize,
    /// Most pictures that run together.
    pub batch_size: usize,
    /// Longest that a picture waits for others, in milliseconds.
    pub batch_delay_ms: u64,
}

impl Plan {
    /// Plans for this process.
    pub fn new(options: ThreadOptions, device: Device, batch_size: usize, batch_delay_ms: u64) -> Self {
        // Looks at the affinity mask and at the cgroup's quota.
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self::for_cores(cores, options, device, batch_size, batch_delay_ms)
    }

    fn for_cores(cores: usize, options: ThreadOptions, device: Device, batch_size: usize, batch_delay_ms: u64) -> Self {
        let (sessions, intra_threads) = match (device, options.sessions, options.intra_threads) {
            (_, Some(sessions), Some(intra)) => (sessions, intra),
            (Device::Cpu, Some(sessions), None) => (sessions, (cores / sessions.max(1)).max(1)),
            (Device::Cpu, None, Some(intra)) => ((cores / intra.max(1)).max(1), intra),
            (Device::Cpu, None, None) => (cores, 1),
            (Device::Cuda(_), sessions, intra) => (sessions.unwrap_or(2), intra.unwrap_or(1)),
        };
        let decode_threads = options.decode_threads.unwrap_or(match device {
            // Inference takes nearly all of the time there; decoding must only never wait for it.
            Device::Cpu => cores.div_ceil(2),
            Device::Cuda(_) => cores,
        });
        let device = match device {
            Device::Cpu => "cpu".to_owned(),
            Device::Cuda(number) => format!("cuda:{number}"),
        };
        Self { cores, device, sessions, intra_threads, decode_threads, batch_size, batch_delay_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cores: usize, sessions: Option<usize>, intra_threads: Option<usize>, device: Device) -> (usize, usize, usize) {
        let options = ThreadOptions { sessions, intra_threads, decode_threads: None };
        let plan = Plan::for_cores(cores, options, device, 16, 5);
        (plan.sessions, plan.intra_threads, plan.decode_threads)
    }

    #[test]
    fn on_a_cpu_sessions_times_threads_are_the_cores() {
        assert_eq!(plan(8, None, None, Device::Cpu), (8, 1, 4));
        assert_eq!(plan(8, Some(2), None, Device::Cpu), (2, 4, 4));
        assert_eq!(plan(8, None, Some(8), Device::Cpu), (1, 8, 4));
        assert_eq!(plan(1, None, Some(4), Device::Cpu), (1, 4, 1));
        assert_eq!(plan(2, Some(4), None, Device::Cpu), (4, 1, 1));
        assert_eq!(plan(2, Some(3), Some(5), Device::Cpu), (3, 5, 1));
    }

    #[test]
    fn a_gpu_has_two_sessions_and_every_core_decodes() {
        assert_eq!(plan(8, None, None, Device::Cuda(0)), (2, 1, 8));
    }
}
