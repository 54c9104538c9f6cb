// Package digest gathers what happens many times at once, so that it is told once. It
// is pure.
//
// What happens alone is told at once. What follows it within a pause is told together
// when that is over: a thousand addresses that move are one line or two, not a
// thousand, and none is left out of the count.
package digest

import (
	"strings"
	"time"
)

// Pause is the least time between two Bursts of one kind (docs/design/pacing.md).
const Pause = time.Second

// A Digest gathers facts of some kinds, of which there are few. The zero Digest is
// ready for use.
type Digest[K comparable, F any] struct {
	waiting []Burst[K, F] // in the order of their first facts
	told    map[K]time.Time
}

// A Burst is facts of one kind, in the order in which they came.
type Burst[K comparable, F any] struct {
	Kind  K
	Facts []F
}

// Add takes in a fact.
func (d *Digest[K, F]) Add(kind K, fact F) {
	for i := range d.waiting {
		if d.waiting[i].Kind == kind {
			d.waiting[i].Facts = append(d.waiting[i].Facts, fact)
			return
		}
	}
	d.waiting = append(d.waiting, Burst[K, F]{kind, []F{fact}})
}

// Take returns what may be told now.
func (d *Digest[K, F]) Take(now time.Time) []Burst[K, F] {
	if len(d.waiting) == 0 {
		return nil
	}
	if d.told == nil {
		d.told = map[K]time.Time{}
	}
	var due, rest []Burst[K, F]
	for _, b := range d.waiting {
		if at, before := d.told[b.Kind]; before && now.Before(at.Add(Pause)) {
			rest = append(rest, b)
			continue
		}
		d.told[b.Kind] = now
		due = append(due, b)
	}
	d.waiting = rest
	return due
}

// Next returns when there is something to take, zero for never.
func (d *Digest[K, F]) Next() time.Time {
	var next time.Time
	for _, b := range d.waiting {
		if at := d.told[b.Kind].Add(Pause); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

// Rest returns all that is left, for the end.
func (d *Digest[K, F]) Rest() []Burst[K, F] {
	rest := d.waiting
	d.waiting = nil
	return rest
}

// listed is how many words of a kind a line has, so that it stays readable
// (docs/design/pacing.md).
const listed = 8

// Few joins the first of some words, and says so when there are more.
func Few(words []string) string {
	if len(words) <= listed {
		return strings.Join(words, " ")
	}
	return strings.Join(words[:listed], " ") + " ..."
}
