package kube

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/belfrylb/belfry/internal/objects"
)

// Each namespace may have so many routine Events at once, and so many a second in
// the long run; how many are left out is told each rationPause (docs/design/bounds.md).
const (
	rationBurst     = 20
	rationPerSecond = 1
	rationPause     = time.Second
)

// A ration bounds what the Services of one namespace cost in routine Events: those
// that are no warning. What they tell stands in each Service's conditions, too. The
// zero ration is ready for use; it is pure.
type ration struct{ of map[string]*allowance }

// An allowance is what a namespace has left, and what was left out.
type allowance struct {
	limit *rate.Limiter
	out   []leftOut
}

// A leftOut is Events of one reason that were left out, the last of which it keeps.
type leftOut struct {
	last  Event
	count int
	since time.Time
}

// routine reports whether an Event is bounded by the ration.
func (e Event) routine() bool {
	return !e.Warning && e.About.Kind == "Service"
}

// take reports whether the Event may be told by itself.
func (r *ration) take(e Event, now time.Time) bool {
	if r.of == nil {
		r.of = map[string]*allowance{}
	}
	a := r.of[e.About.Namespace]
	if a == nil {
		a = &allowance{limit: rate.NewLimiter(rationPerSecond, rationBurst)}
		r.of[e.About.Namespace] = a
	}
	if a.limit.AllowN(now, 1) {
		return true
	}
	for i := range a.out {
		if o := &a.out[i]; o.last.Reason == e.Reason {
			o.last, o.count = e, o.count+1
			return false
		}
	}
	a.out = append(a.out, leftOut{e, 1, now})
	return false
}

// rest returns what tells of the Events that were left out, and forgets those
// namespaces that have been quiet.
func (r *ration) rest(now time.Time) (all []Event) {
	for _, namespace := range slices.Sorted(maps.Keys(r.of)) {
		a := r.of[namespace]
		for _, o := range a.out {
			e := o.last
			if o.count > 1 {
				e.Note = fmt.Sprintf("%s (with %d more of this reason in this namespace since %s: see each Service's conditions)",
					objects.Cut(e.Note, maxNote-128), o.count-1, o.since.UTC().Format(time.TimeOnly))
			}
			all = append(all, e)
		}
		if a.out = nil; a.limit.TokensAt(now) >= rationBurst {
			delete(r.of, namespace)
		}
	}
	return all
}
