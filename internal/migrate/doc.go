// Package migrate reads what another load balancer is configured by and writes what
// configures Belfry to the same effect.
//
// Nothing is left out in silence. A field that has no equal, a field that nobody here
// knows, and a value that would be refused each become a Note with what it means. So
// whoever reads the notes knows the whole difference.
package migrate
