package controller

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/digest"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/ranges"
)

// A topic is what addresses are told together by in the log: what has become of them,
// and of which pool they are or why it is so.
type topic struct{ verb, pool, cause string }

// Verbs of topics.
const (
	verbAllocated = "allocated"
	verbReleased  = "released"
	verbOrphaned  = "orphaned"
)

// causeDeleted is that of a Service that does not exist any more.
const causeDeleted = "Deleted"

// given is an address and the Service that got it, or had it.
type given struct {
	address netip.Addr
	service lb.ServiceKey
}

// logs takes note, for the log, of the transitions that a write has made.
func (l *loop) logs(was objects.Service, d allocator.Decision, is objects.ServiceWrite) {
	for i, a := range is.Addresses {
		if !slices.Contains(was.Assigned, a) {
			l.given.Add(topic{verb: verbAllocated, pool: is.Pools[i]}, given{a, was.Key})
		}
	}
	for _, r := range d.Released {
		if slices.Contains(was.Assigned, r.Address) {
			l.given.Add(topic{verb: verbReleased, cause: r.Cause.String()}, given{r.Address, was.Key})
		}
	}
	if is.Allocated.Reason == was.Allocated.Reason {
		return
	}
	for _, a := range d.Assignments {
		if a.Orphan {
			l.given.Add(topic{verb: verbOrphaned, pool: a.Pool}, given{a.Address, was.Key})
		}
	}
}

// tellGiven has the log say what has become of addresses.
func (l *loop) tellGiven(bursts []digest.Burst[topic, given]) {
	for _, b := range bursts {
		level, message, attributes := line(b.Kind, b.Facts)
		l.Log.LogAttrs(context.Background(), level, message, attributes...)
	}
}

// line says in one line what has become of addresses.
func line(of topic, facts []given) (slog.Level, string, []slog.Attr) {
	level := slog.LevelInfo
	if of.verb == verbOrphaned {
		level = slog.LevelWarn
	}
	message, attributes := "address "+of.verb, []slog.Attr{
		slog.String("address", facts[0].address.String()), slog.String("service", facts[0].service.String()),
	}
	if len(facts) > 1 {
		var addresses []netip.Addr
		var services []string
		for _, f := range facts {
			addresses, services = append(addresses, f.address), append(services, f.service.String())
		}
		slices.SortFunc(addresses, netip.Addr.Compare)
		slices.Sort(services)
		message, attributes = "addresses "+of.verb, []slog.Attr{
			slog.Int("count", len(facts)), slog.String("addresses", digest.Few(ranges.Format(slices.Compact(addresses)))),
			slog.String("services", digest.Few(slices.Compact(services))),
		}
	}
	return level, message, slices.DeleteFunc(append(attributes, slog.String("pool", of.pool), slog.String("cause", of.cause)),
		func(a slog.Attr) bool { return a.Value.Equal(slog.StringValue("")) })
}
