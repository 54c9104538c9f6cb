package speaker

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/digest"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/report"
)

// A topic is what addresses are told together by: what has become of them, and why.
type topic struct{ verb, cause string }

// Topics, but for those of transitions.
const (
	verbGivenUp = "given up by another speaker"
	verbUsed    = "used by a foreign station"
	verbTaken   = "used by another node"
	verbHeld    = "withheld"
)

// verbs are those of transitions.
var verbs = map[core.Kind]string{
	core.Acquired: "acquired", core.HandedOver: "handed over", core.Released: "released", core.Withheld: verbHeld,
}

// level is Warn for what somebody should look into.
func (t topic) level() slog.Level {
	if t.verb == verbUsed || t.verb == verbTaken || t.verb == verbHeld {
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// moved has the log say what has become of addresses: of single ones at once, of many
// together.
func (s *Speaker) moved(now time.Time, e core.Effects) {
	for _, t := range e.Transitions {
		s.moves.Add(topic{verbs[t.Kind], t.Cause.String()}, t)
	}
	for _, a := range e.Won {
		s.moves.Add(topic{verb: verbGivenUp}, core.Transition{Address: a})
	}
	for _, c := range e.Conflicts {
		switch {
		case c.Withheld: // it is a transition
		case c.Node == "":
			s.moves.Add(topic{verb: verbUsed}, core.Transition{Address: c.Address, Station: c.MAC})
		default:
			s.moves.Add(topic{verb: verbTaken}, core.Transition{Address: c.Address, Station: c.MAC, From: c.Node})
		}
	}
	s.tellMoves(s.moves.Take(now))
}

func (s *Speaker) tellMoves(bursts []digest.Burst[topic, core.Transition]) {
	for _, b := range bursts {
		message, attributes := line(b.Kind, b.Facts)
		s.log.LogAttrs(context.Background(), b.Kind.level(), message, attributes...)
	}
}

// line says in one line what has become of addresses.
func line(of topic, facts []core.Transition) (string, []slog.Attr) {
	var (
		addresses          []netip.Addr
		from, to, stations []string
		silence, held      time.Duration
	)
	for _, t := range facts {
		addresses = append(addresses, t.Address)
		from, to = append(from, t.From), append(to, t.To)
		if t.Station != (lb.MAC{}) {
			stations = append(stations, t.Station.String())
		}
		silence, held = max(silence, t.Silence), max(held, t.Held)
	}
	message, attributes := "address "+of.verb, []slog.Attr{slog.String("address", addresses[0].String())}
	if len(addresses) > 1 {
		slices.SortFunc(addresses, netip.Addr.Compare)
		message, attributes = "addresses "+of.verb, []slog.Attr{
			slog.Int("count", len(addresses)), slog.String("addresses", digest.Few(report.Format(slices.Compact(addresses)))),
		}
	}
	return message, slices.DeleteFunc(append(attributes,
		slog.String("cause", of.cause), slog.String("from", each(from)), slog.String("to", each(to)), slog.String("mac", each(stations)),
		slog.Duration("silence", silence.Round(time.Millisecond)), slog.Duration("held", held.Round(time.Millisecond)),
	), func(a slog.Attr) bool {
		return a.Value.Equal(slog.StringValue("")) || a.Value.Equal(slog.DurationValue(0))
	})
}

// each names each of some once; empty stands for none.
func each(some []string) string {
	slices.Sort(some)
	return digest.Few(slices.DeleteFunc(slices.Compact(some), func(s string) bool { return s == "" }))
}

// earlier returns the earlier of two times; zero is never.
func earlier(a, b time.Time) time.Time {
	switch {
	case a.IsZero():
		return b
	case b.IsZero() || a.Before(b):
		return a
	default:
		return b
	}
}
