// Package apitest is an API server in memory, for tests in virtual time.
//
// It is reached through an [http.RoundTripper], so whatever is tested runs with
// its own clients, reflectors and patches. It keeps objects as they are sent,
// with UIDs, resource versions, generations and finalizers, and serves lists,
// watches and the writes that we send: create, update, merge patch, strategic
// merge patch. It validates nothing and admits everything; that is for the tests
// against a real API server. A test can be asked about each write before it
// happens, to refuse it, to hold it up, or to look at what it would break.
//
// Everything in it blocks on channels made by its users' goroutines, so that
// testing/synctest knows when all is quiet.
package apitest
