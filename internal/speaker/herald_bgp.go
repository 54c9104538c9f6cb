package speaker

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/lb"
)

// recounting is how long the number of nodes that advertise a Service must have
// been another one until its condition says so. Speakers that restart one after
// the other change it for a moment each, for every Service.
const recounting = 15 * time.Second

// byBGP begins what a condition says of BGP.
const byBGP = "advertised by BGP"

// A route is BGP's part in announcing one address.
type route struct {
	// asked is set when the address is to be advertised by BGP at all.
	asked bool
	// nodes advertise it, ascending.
	nodes []string
	// reason says why none does.
	reason announce.Reason
}

// routes returns BGP's part in announcing the addresses of verdicts.
func (h *herald) routes(v view, verdicts []announce.Decision) []route {
	out := make([]route, len(verdicts))
	for i, d := range verdicts {
		refusal, asked := v.index.Routing(d.Address)
		if !asked {
			continue
		}
		out[i] = route{asked: true, reason: refusal.Reason}
		if refusal.Reason != announce.Eligible {
			continue
		}
		out[i].reason = announce.NoSession
		out[i].nodes = v.index.Advertisers(d.Address, v.carriers)
	}
	return out
}

// owned returns the first owner of an address, empty for none.
func owned(verdicts []announce.Decision) string {
	for _, v := range verdicts {
		if v.Owner != "" {
			return v.Owner
		}
	}
	return ""
}

// chosen returns which of the nodes that advertise the first address that any
// does speaks for the Service: the least by a hash, so that one that comes or goes
// changes few, and they share the work.
func chosen(key lb.ServiceKey, routes []route) string {
	i := slices.IndexFunc(routes, func(r route) bool { return len(r.nodes) > 0 })
	if i < 0 {
		return ""
	}
	rank := func(node string) [sha256.Size]byte { return sha256.Sum256([]byte(node + "#" + key.String())) }
	best := routes[i].nodes[0]
	for _, n := range routes[i].nodes[1:] {
		a, b := rank(n), rank(best)
		if slices.Compare(a[:], b[:]) < 0 {
			best = n
		}
	}
	return best
}

// advertisers says from how many nodes addresses are advertised.
func advertisers(verdicts []announce.Decision, routes []route) string {
	text := func(r route) string {
		switch len(r.nodes) {
		case 0:
			return fmt.Sprintf(" from no node (%v)", r.reason)
		case 1:
			return " from node " + r.nodes[0]
		default:
			return fmt.Sprintf(" from %d nodes", len(r.nodes))
		}
	}
	first := text(routes[0])
	if routes[0].asked && len(routes[0].nodes) > 0 && !slices.ContainsFunc(routes, func(r route) bool { return !r.asked || text(r) != first }) {
		return first
	}
	var parts []string
	for i, r := range routes {
		if r.asked {
			parts = append(parts, verdicts[i].Address.String()+text(r))
		}
	}
	return ": " + strings.Join(parts, ", ")
}

// A recount is a condition that differs from what a Service says in the number of
// nodes.
type recount struct {
	Condition
	since time.Time
}

// recounts returns how long to wait before a Service that is announced, and stays
// so, is told from how many nodes BGP does. What layer 2 does is told at once.
func (h *herald) recounts(key lb.ServiceKey, have, want Report, now time.Time) time.Duration {
	was, before, _ := strings.Cut(have.Message, byBGP)
	is, after, _ := strings.Cut(want.Message, byBGP)
	if !have.Announced || !want.Announced || len(want.Places) > 0 || was != is || before == "" || after == "" {
		delete(h.recounted, key)
		return 0
	}
	if h.recounted[key].Condition != want.Condition {
		h.recounted[key] = recount{want.Condition, now}
	}
	return h.recounted[key].since.Add(recounting).Sub(now)
}
