package kube

import (
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// patience is for how long the API server must have said that there is no such
// kind, or that we may not read it, before we go on without. An API server that
// starts may say either for a moment (docs/design/pacing.md).
const patience = 5 * time.Second

// A refusal is why objects of a kind cannot be read at all.
type refusal uint8

// Refusals.
const (
	// readable: they can, or we do not know better. An API server that is away
	// refuses nothing: what was read last holds.
	readable refusal = iota
	// missing: there is no such kind, nor any object of it.
	missing
	// forbidden: we lack the right.
	forbidden
)

// String returns the refusal as logs and metrics spell it.
func (r refusal) String() string { return [...]string{"Readable", "Missing", "Forbidden"}[r] }

// refusalOf classifies the error of a list or a watch.
func refusalOf(err error) refusal {
	switch {
	case apierrors.IsNotFound(err):
		return missing
	case apierrors.IsForbidden(err):
		return forbidden
	default:
		return readable
	}
}

// A reading is how well the objects of one kind can be read. Step takes the facts.
//
// A kind that does not exist has no objects: it counts as read, and as empty. A
// kind that we may not read keeps the objects that were read before; when there
// never were any, everything goes on without, unless the kind is vital, since
// a decision without knowing of pools or Services does harm. One that is incidental
// counts as read from the start.
type reading struct {
	need need
	// read is set once all objects are known, or are not waited for.
	read bool
	// refusal is what the last attempts met, since the first of them; told is set
	// when that has been told.
	refusal refusal
	since   time.Time
	told    bool
	// failing is since when no attempt has succeeded; zero: the last one did.
	failing time.Time
}

// A readingEffect is what is to be done about a reading.
type readingEffect struct {
	// Tell says that the refusal, or its end, is to be told.
	Tell bool
	// Empty says that the kind has no objects, whatever is known of it.
	Empty bool
}

// listed takes note that all objects are known.
func (r *reading) listed() { r.read = true }

// reached takes note of whether an attempt succeeded.
func (r *reading) reached(now time.Time, ok bool) {
	switch {
	case ok:
		r.failing = time.Time{}
	case r.failing.IsZero():
		r.failing = now
	}
}

// age is how old the objects that are known may be: for how long no attempt to read
// them has succeeded. A kind that does not exist has no objects to be outdated.
func (r *reading) age(now time.Time) time.Duration {
	if r.failing.IsZero() || r.refusal == missing {
		return 0
	}
	return now.Sub(r.failing)
}

// tried takes note of what an attempt to list or watch has met.
func (r *reading) tried(now time.Time, met refusal) (do readingEffect) {
	if met != r.refusal {
		do.Tell = r.told && met == readable
		r.refusal, r.since, r.told = met, now, false
	}
	if met == readable || r.told || now.Sub(r.since) < patience {
		return do
	}
	r.told, do.Tell = true, true
	switch {
	case met == missing:
		r.read, do.Empty = true, true
	case r.need != vital:
		r.read = true
	}
	return do
}
