//! What stands where this program was built without kernels for an accelerator: nothing, in as many words. None of these
//! can exist, so what is written for them is never run.

use super::slab::{Chosen, Laid};
use super::whole::{Parts, Spoken};
use crate::checkpoint::Kind;
use crate::error::Result;
use candle_core::{Device, Tensor};

pub enum Own {}
pub enum Matrix {}
pub enum Slots {}
pub enum Kept {}
pub enum Whole {}

impl Own {
    pub fn of(_: &Device) -> Option<Own> {
        None
    }

    pub fn bring(&self, _: &Tensor) -> Result<Option<Tensor>> {
        match *self {}
    }

    pub fn fetch(&self, _: &Tensor) -> Result<Option<Tensor>> {
        match *self {}
    }

    pub fn matrix(&self, _: &Kind, _: &[u8]) -> Result<Option<Matrix>> {
        match *self {}
    }

    pub fn product(&self, _: &Matrix, _: &Tensor) -> Result<Tensor> {
        match *self {}
    }

    pub fn norm(&self, _: &Tensor, _: &Tensor, _: f32) -> Result<Tensor> {
        match *self {}
    }

    pub fn rotate(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Tensor> {
        match *self {}
    }

    pub fn slots(&self, _: usize, _: usize) -> Result<Slots> {
        match *self {}
    }

    pub fn write(&self, _: &Slots, _: usize, _: &Laid, _: [&[u8]; 3]) -> Result<()> {
        match *self {}
    }

    pub fn experts(&self, _: &Slots, _: &[Chosen<'_>], _: &Tensor) -> Result<Tensor> {
        match *self {}
    }

    pub fn cache(&self, _: bool, _: usize, _: (usize, usize)) -> Result<Option<Kept>> {
        match *self {}
    }

    pub fn keep(&self, _: &mut Kept, _: usize, _: &Tensor, _: &Tensor) -> Result<()> {
        match *self {}
    }

    pub fn attend(&self, _: &Kept, _: &Tensor, _: usize, _: Option<usize>) -> Result<Tensor> {
        match *self {}
    }

    pub fn copy(&self, _: &mut Kept, _: &Kept, _: usize) -> Result<()> {
        match *self {}
    }

    pub fn fetch_cache(&self, _: &Kept, _: usize) -> Result<Vec<Vec<u8>>> {
        match *self {}
    }

    pub fn fill_cache(&self, _: &mut Kept, _: &[Vec<u8>]) -> Result<()> {
        match *self {}
    }

    pub fn whole(&self, _: &Parts<'_>) -> Result<Option<Whole>> {
        match *self {}
    }

    pub fn token(&self, _: &Whole, _: usize, _: &[&Kept], _: (&[f32], &[f32]), _: &[f32]) -> Result<Option<Spoken>> {
        match *self {}
    }

    pub fn in_a_row(&self, _: &Tensor, _: &Tensor, _: usize) -> Result<f64> {
        match *self {}
    }
}
