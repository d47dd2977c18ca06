//! Activations of a step, on the host or on an accelerator. They cross when the other side asks, once.

use crate::bridge::activations;
use crate::device::{Accelerator, What};
use crate::error::Result;
use crate::host::Host;
use candle_core::Tensor;
use kernels::Activations;
use std::cell::OnceCell;
use std::sync::Arc;

/// The accelerator something lies on; `None`: the host.
pub type Home<'a> = Option<&'a Arc<Accelerator>>;

/// `[t, width]`.
pub struct Vector<'a> {
    home: Home<'a>,
    x: Tensor,
    /// What it counts as when it crosses.
    what: What,
    /// The same on the other side.
    across: OnceCell<Tensor>,
    rounded: OnceCell<Activations>,
}

impl<'a> Vector<'a> {
    pub fn new(home: Home<'a>, what: What, x: Tensor) -> Vector<'a> {
        Vector { home, x, what, across: OnceCell::new(), rounded: OnceCell::new() }
    }

    pub fn home(&self) -> Home<'a> {
        self.home
    }

    /// Where it lies.
    pub fn tensor(&self) -> &Tensor {
        &self.x
    }

    pub fn t(&self) -> Result<usize> {
        Ok(self.x.dim(0)?)
    }

    /// On the host, rounded for the integer kernels.
    pub fn here(&self, host: &Host) -> Result<&Activations> {
        if self.rounded.get().is_none() {
            let x = match self.home {
                None => activations(host, &self.x)?,
                Some(accelerator) => activations(host, self.across(|| accelerator.fetch(self.what, &self.x))?)?,
            };
            let _ = self.rounded.set(x); // nobody else holds it meanwhile
        }
        Ok(self.rounded.get().expect("set above"))
    }

    /// On `accelerator`, the only one there is.
    pub fn there(&self, accelerator: &Accelerator) -> Result<&Tensor> {
        match self.home {
            Some(_) => Ok(&self.x),
            None => self.across(|| accelerator.bring(self.what, &self.x)),
        }
    }

    fn across(&self, cross: impl FnOnce() -> Result<Tensor>) -> Result<&Tensor> {
        if self.across.get().is_none() {
            let _ = self.across.set(cross()?); // nobody else holds it meanwhile
        }
        Ok(self.across.get().expect("set above"))
    }

    /// The same with its home at `home`.
    pub fn moved<'b>(self, home: Home<'b>) -> Result<Vector<'b>> {
        let x = match (self.home, home) {
            (None, Some(accelerator)) => accelerator.bring(self.what, &self.x)?,
            (Some(accelerator), None) => accelerator.fetch(self.what, &self.x)?,
            _ => self.x,
        };
        Ok(Vector::new(home, self.what, x))
    }

    /// The sum of this and a tensor at its home.
    pub fn plus(&self, y: Tensor) -> Result<Vector<'a>> {
        Ok(Vector::new(self.home, self.what, (&self.x + y)?))
    }
}
