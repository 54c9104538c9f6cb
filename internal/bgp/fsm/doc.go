// Package fsm is a BGP session as a machine: messages, time and the fate of the
// connection go in; messages to write and the end of the session come out (RFC 4271
// section 8, from OpenSent on, of an end that dials and uses no route it is told).
//
// It does no I/O and has no clock, so every conversation with a router can be written
// down and run: see testdata. internal/bgp/guard carries out what it asks for, over a
// connection to a router.
package fsm
