// Package arch holds the tests that keep the shape of the tree: which package
// may import which, that each says what it is for, and what each binary is
// made of. It has no code of its own.
package arch
