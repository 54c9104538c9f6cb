package config

import "github.com/belfrylb/belfry/api/v1beta1"

// A field that is set but not acted on is reported, never silently ignored. This
// table is the whole list of them; an object with one is served without it, and
// is Accepted=False/Unsupported.
var (
	unsupportedPool            []unsupported[v1beta1.IPAddressPoolSpec]
	unsupportedL2Advertisement []unsupported[v1beta1.L2AdvertisementSpec]
)

// unsupported names a field of S, tells when it asks for what is not there, and
// says why that is not there and what happens instead.
type unsupported[S any] struct {
	field string
	asks  func(*S) bool
	why   string
}

func unsupportedIn[S any](spec *S, table []unsupported[S]) []Problem {
	var problems []Problem
	for _, u := range table {
		if u.asks(spec) {
			problems = append(problems, Problem{u.field, v1beta1.ReasonUnsupported, u.why})
		}
	}
	return problems
}
