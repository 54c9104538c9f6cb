// Package core is a speaker's protocol as a machine without I/O: it is told what
// happened and when, and returns what is to be done.
package core
