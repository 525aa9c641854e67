//! Independent work on threads of its own.

use burn::tensor::Device;

/// Applies `f` to every item, `workers` of them at a time, and gives the results in the items' order.
///
/// The threads are not rayon's: a backward pass holds its graph's lock while its matrix products run on rayon's
/// threads, and a thread that waits for one must not pick up another backward pass meanwhile.
pub(crate) fn map_ordered<T: Sync, R: Send>(
    items: &[T],
    workers: usize,
    f: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let workers = workers.clamp(1, items.len().max(1));
    if workers == 1 {
        return items.iter().map(f).collect();
    }
    let work = |worker: usize| {
        let mine = items.iter().enumerate().skip(worker).step_by(workers);
        mine.map(|(index, item)| (index, f(item)))
            .collect::<Vec<_>>()
    };
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..workers).map(|w| scope.spawn(move || work(w))).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(resume))
            .collect()
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn resume<R>(panic: Box<dyn std::any::Any + Send>) -> R {
    std::panic::resume_unwind(panic)
}

/// Parameters up to which single operations are too small to keep all cores busy by themselves.
const SMALL_MODEL: u64 = 1 << 24;

/// How many micro-batches, or halves of a rollout, to compute at once: small models on the CPU gain from it, larger
/// ones fill the cores within each operation and would only take more memory. No result depends on it.
pub(crate) fn workers(parameters: u64, device: &Device) -> usize {
    let is_cpu = device.clone().inner() == Device::flex();
    if is_cpu && parameters <= SMALL_MODEL {
        rayon::current_num_threads()
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_items_order_whatever_the_workers() {
        let items: Vec<u64> = (0..37).collect();
        let squares: Vec<u64> = items.iter().map(|n| n * n).collect();
        for workers in [1, 2, 3, 64] {
            assert_eq!(map_ordered(&items, workers, |n| n * n), squares);
        }
        assert!(map_ordered(&[] as &[u64], 4, |n| *n).is_empty());
    }
}
