// Package e2e holds the tests of the whole product: the controller and the
// speakers as processes of a real cluster, judged by what a client on another
// host sees.
package e2e
