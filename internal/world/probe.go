package world

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
	"github.com/belfrylb/belfry/internal/report"
	"github.com/belfrylb/belfry/internal/speakerstatus"
)

// askersMost is how many nodes beside the owner are to ask for an address: two, so that
// each hears the kernel of the other.
const askersMost = 2

// Askers returns the nodes whose speakers are to ask for an address: the next ones by
// name after its owner that are on its segment, and the owner. It does not hear itself, but
// all others, and looks at the condition again. Of an address without an owner any that can
// announce are, and none if routers are told of it.
func (w *World) Askers(a netip.Addr) ([]string, error) {
	owner, _, _, _ := w.owner(a)
	index := announce.NewIndex(w.Snapshot, w.options())
	if _, routed := index.Routing(a); routed && owner == "" {
		return nil, nil
	}
	members := slices.DeleteFunc(w.members(nil), func(m election.Member) bool { return m.State != election.Alive || len(m.Interfaces) == 0 })
	if len(members) == 0 {
		return nil, fmt.Errorf("no speaker reports an interface on which it can ask for %v", a)
	}
	on, owned := announce.NewReach(index, members).Interface(owner, a)
	at, _ := slices.BinarySearchFunc(members, owner, func(m election.Member, node string) int { return cmp.Compare(m.Node, node) })
	var near, rest []string
	for k := range members {
		m := &members[(at+k)%len(members)]
		switch i, _ := proof.Segment(m.Interfaces, a); {
		case m.Node == owner:
		case owned && slices.ContainsFunc(m.Interfaces, func(i lb.Interface) bool { return proof.Share(i, *on) }), !owned && i.OnLink(a):
			near = append(near, m.Node)
		case !owned:
			rest = append(rest, m.Node)
		}
	}
	near = append(near, rest...)
	near = near[:min(len(near), askersMost)]
	if owner != "" {
		near = append(near, owner)
	}
	return near, nil
}

// A Probe is who answers for an address, as speakers heard it that were asked to ask.
type Probe struct {
	Address netip.Addr `json:"address"`
	// Owner is the node that answers for it by layer 2, as speakers report; empty for
	// none.
	Owner string `json:"owner,omitempty"`
	// Verdict is Verified, AnsweredTwice or Unanswered, or empty where nobody could ask
	// or nobody is to answer.
	Verdict string `json:"verdict,omitempty"`
	// Problem says what is wrong and what to do.
	Problem string        `json:"problem,omitempty"`
	Asked   []ProbeAsked  `json:"asked"`
	Answers []ProbeAnswer `json:"answers"`
	// Routers is what each router was told of the address; nil: none is to be told.
	Routers *Section `json:"routers,omitempty"`
	// Well is set when there is nothing to do about it.
	Well bool `json:"well"`
}

// A ProbeAsked is a node that asked, or could not.
type ProbeAsked struct {
	Node      string    `json:"node"`
	Interface string    `json:"interface,omitempty"`
	At        time.Time `json:"at,omitzero"`
	Problem   string    `json:"problem,omitempty"`
}

// A ProbeAnswer is a station's answer, as one node heard it.
type ProbeAnswer struct {
	MAC   string `json:"mac"`
	Node  string `json:"node,omitempty"`
	Voice string `json:"voice"`
	// HeardBy is the node that asked, and Microseconds how long after its question the
	// answer came.
	HeardBy      string `json:"heardBy"`
	Microseconds int32  `json:"microseconds"`
}

// Probe joins what some speakers say that were asked for an address: nil of one that has
// not said anything in time.
func (w *World) Probe(a netip.Addr, said map[string]*v1beta1.ProbeStatus) *Probe {
	p := &Probe{Address: a, Asked: []ProbeAsked{}, Answers: []ProbeAnswer{}}
	p.Owner, _, _, _ = w.owner(a)
	var stations []proof.Station
	asked, others := 0, false
	for _, node := range slices.Sorted(maps.Keys(said)) {
		is := said[node]
		if is == nil {
			p.Asked = append(p.Asked, ProbeAsked{Node: node, Problem: "its speaker has not answered in time"})
			continue
		}
		p.Asked = append(p.Asked, ProbeAsked{Node: node, Interface: is.Interface, At: is.At.Time, Problem: is.Problem})
		if is.Problem != "" {
			continue
		}
		asked++
		others = others || node != p.Owner
		for _, h := range is.Answers {
			p.Answers = append(p.Answers, ProbeAnswer{h.MAC, h.Node, string(h.Voice), node, h.AfterMicroseconds})
			s, ok := speakerstatus.Station(v1beta1.Layer2Station{MAC: h.MAC, Node: h.Node, Voice: h.Voice})
			if ok && !slices.ContainsFunc(stations, func(o proof.Station) bool { return o.MAC == s.MAC }) {
				stations = append(stations, s)
			}
		}
	}
	advice := p.told(w)
	p.judge(asked > 0, others, stations)
	if len(advice) > 0 {
		p.Well = false
		p.Problem = strings.Join(slices.DeleteFunc(append([]string{p.Problem}, advice...), func(s string) bool { return s == "" }), " ")
	}
	return p
}

// judge says what the answers mean.
func (p *Probe) judge(asked, others bool, stations []proof.Station) {
	of := func(owners bool) (out []proof.Station) {
		for _, s := range stations {
			if (s.Node == p.Owner && p.Owner != "") == owners {
				out = append(out, s)
			}
		}
		return out
	}
	kind := proof.Unknown
	switch own := of(true); {
	case !asked && p.Owner == "" && p.Routers != nil:
		p.Well = true // nobody is to answer
		return
	case !asked:
		p.Problem = "no speaker could ask"
		return
	case p.Owner == "" && len(stations) == 0:
		p.Well = true
		return
	case p.Owner == "":
		p.Problem = "no speaker says that it answers for it, and something does: " + report.Fault(p.Address, "", proof.AnsweredTwice, stations, false)
		return
	case len(of(false)) > 0 || len(own) > 1:
		kind = proof.AnsweredTwice
	case len(own) == 1:
		kind = proof.Verified
	case others:
		kind = proof.Unanswered
	default:
		p.Problem = "nobody else is on its segment, so its own answer is not heard"
		return
	}
	p.Verdict, p.Well = kind.String(), kind == proof.Verified
	p.Problem = report.Fault(p.Address, p.Owner, kind, stations, others && kind == proof.AnsweredTwice && len(of(true)) == 0)
}

// told notes what routers were told, and returns what to do about it.
func (p *Probe) told(w *World) (advice []string) {
	routed, asked := announce.NewIndex(w.Snapshot, w.options()).Routing(p.Address)
	if !asked {
		return nil
	}
	e := &Explanation{}
	advice = w.explainBGP(e, p.Address, routed)
	p.Routers = &e.Sections[0]
	return advice
}
