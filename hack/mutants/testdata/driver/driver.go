// Package driver is made of specimen.
package driver

import "github.com/belfrylb/belfry/hack/mutants/testdata/specimen"

// Patient reports whether anything may take long.
func Patient() bool { return specimen.Limit > 5*1_000_000_000 }
