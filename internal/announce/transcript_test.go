package announce

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/lb/lbtest"
	"github.com/belfrylb/belfry/internal/origin"
	"github.com/belfrylb/belfry/internal/transcript"
)

// TestTranscripts runs the histories in testdata. A file is a series of blocks;
// a block is lines that change the world, or one command, then "----", then
// what it prints.
//
//	pool NAME RANGE... [label=K=V,..]                     defines or replaces; the pool
//	        "everything" is there from the start, and has what no other has
//	ad NAME [pools=A,B] [poolsel=SEL|SEL] [services=SEL|..] [nodes=SEL|..]
//	        [if=GLOB,..] [notif=GLOB,..] [prefer=WEIGHT:SEL,..] [!failback]
//	node NAME [ip=ADDR,..] [K=V ..] [!exclude] [!unavailable] [!drain] [!unready]
//	service NS/NAME ADDR[@POOL]... [Local] [!released] [!foreign] [on=NODE,..] [label=K=V,..] [ep=NODE:READY[+TERMINATING],..]
//	  (ep4=, ep6= for those of one family)
//	delete KIND NAME
//
//	member NODE [IFACE[!FAULT]=PREFIX,..] [joining|suspected|stalled|leaving]
//	delete member NODE
//
//	candidates ADDR    what configuration says of every node
//	explain ADDR       what is to be said of every node
//	decide             who owns what and who does what about it
//	record             which records of places the owners write
//	sites [AD]         what configuration says about placing
//	gossip             decide, then every member claims what it answers for
func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", func(t *testing.T) transcript.World { return newWorld(t) })
}

// A world is a snapshot that transcripts build by name.
type world struct {
	t        *testing.T
	snapshot lb.Snapshot
	members  []election.Member
	speakers map[string]*speaker
}

// A speaker is what a member keeps to itself.
type speaker struct {
	own      election.OwnClaims
	failback election.Failback
	met      map[string]bool
}

func newWorld(t *testing.T) *world {
	return &world{t: t, snapshot: lb.Snapshot{Pools: []lb.Pool{lbtest.Everything()}}, speakers: map[string]*speaker{}}
}

// divided returns the snapshot with its pools divided, as config hands them over.
func (w *world) divided() lb.Snapshot {
	s := w.snapshot
	s.Pools = slices.Clone(s.Pools)
	origin.Divide(s.Pools)
	return s
}

// Line does what a line says.
func (w *world) Line(line string) string {
	args := strings.Fields(line)
	verb, args := args[0], args[1:]
	switch verb {
	case "pool":
		put(&w.snapshot.Pools, w.pool(args), func(p lb.Pool) string { return p.Name })
	case "ad":
		put(&w.snapshot.L2Advertisements, w.ad(args), func(a lb.L2Advertisement) string { return a.Name })
	case "node":
		put(&w.snapshot.Nodes, w.node(args), func(n lb.Node) string { return n.Name })
	case "service":
		put(&w.snapshot.Services, w.service(args), func(s lb.Service) string { return s.Key.String() })
	case "member":
		put(&w.members, w.member(args), func(m election.Member) string { return m.Node })
	case "bgpad":
		put(&w.snapshot.BGPAdvertisements, w.bgpad(args), func(a lb.BGPAdvertisement) string { return a.Name })
	case "bgppeer":
		put(&w.snapshot.BGPPeers, w.bgppeer(args), func(p lb.BGPPeer) string { return p.Name })
	case "sessions":
		w.sessions(args)
	case "routing":
		return w.routing(netip.MustParseAddr(args[0]))
	case "delete":
		w.remove(args[0], args[1])
	case "candidates":
		return w.candidates(netip.MustParseAddr(args[0]))
	case "explain":
		var b strings.Builder
		for _, n := range Explain(NewIndex(w.divided(), eligibility.Options{}), w.members, netip.MustParseAddr(args[0])) {
			fmt.Fprintf(&b, "%-4s %v\n", n.Node, n.Reason)
		}
		return b.String()
	case "decide":
		return w.decide()
	case "record":
		return w.record()
	case "sites":
		return w.sites(args)
	case "gossip":
		out := w.decide()
		w.gossip()
		return out
	default:
		w.t.Fatalf("unknown line %q", line)
	}
	return ""
}

func (w *world) remove(kind, name string) {
	s := &w.snapshot
	switch kind {
	case "pool":
		s.Pools = slices.DeleteFunc(s.Pools, func(p lb.Pool) bool { return p.Name == name })
	case "ad":
		s.L2Advertisements = slices.DeleteFunc(s.L2Advertisements, func(a lb.L2Advertisement) bool { return a.Name == name })
	case "node":
		s.Nodes = slices.DeleteFunc(s.Nodes, func(n lb.Node) bool { return n.Name == name })
	case "service":
		s.Services = slices.DeleteFunc(s.Services, func(s lb.Service) bool { return s.Key.String() == name })
	case "member":
		w.members = slices.DeleteFunc(w.members, func(m election.Member) bool { return m.Node == name })
		delete(w.speakers, name)
	default:
		w.t.Fatalf("delete %s", kind)
	}
}

func (w *world) candidates(a netip.Addr) string {
	ix := NewIndex(w.divided(), eligibility.Options{})
	var b strings.Builder
	for _, n := range ix.Candidates(a) {
		fmt.Fprintf(&b, "%-4s %v\n", n.Node, n.Reason)
	}
	if r := ix.Refusal(a); r.Reason != eligibility.Eligible {
		fmt.Fprintf(&b, "refused %v: %s\n", r.Reason, r.Sentence())
	}
	if b.Len() == 0 {
		return "not in use\n"
	}
	return b.String()
}

// routing prints who advertises an address by BGP, or why nobody can, and what is
// said of it when neither protocol can.
func (w *world) routing(a netip.Addr) string {
	ix := NewIndex(w.divided(), eligibility.Options{})
	var b strings.Builder
	switch r, asked := ix.Routing(a); {
	case !asked:
		b.WriteString("not asked for\n")
	case r.Reason != eligibility.Eligible:
		fmt.Fprintf(&b, "nobody: %v\n", r.Reason)
	default:
		fmt.Fprintf(&b, "advertised from %v\n", ix.Advertisers(a, Sessions(w.members)))
	}
	if r := ix.Refusal(a); r.Reason != eligibility.Eligible {
		fmt.Fprintf(&b, "refused %v: %s\n", r.Reason, r.Sentence())
	}
	return b.String()
}

// sessions are those that a member has established, each "peer/family".
func (w *world) sessions(args []string) {
	i := slices.IndexFunc(w.members, func(m election.Member) bool { return m.Node == args[0] })
	w.members[i].Sessions = nil
	for _, arg := range args[1:] {
		peer, family, _ := strings.Cut(arg, "/")
		w.members[i].Sessions = append(w.members[i].Sessions, bgp.SessionID(peer, lb.Family(number(family))))
	}
	slices.Sort(w.members[i].Sessions)
}

func (w *world) bgpad(args []string) lb.BGPAdvertisement {
	ad := lb.BGPAdvertisement{Name: args[0], Created: time.Unix(int64(len(w.snapshot.BGPAdvertisements)), 0)}
	for _, arg := range args[1:] {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "pools":
			ad.Pools = strings.Split(value, ",")
		case "nodes":
			ad.NodeSelectors = parseSelectors(value)
		case "peers":
			ad.Peers = strings.Split(value, ",")
		default:
			w.t.Fatalf("bgpad: %q", arg)
		}
	}
	return ad
}

func (w *world) bgppeer(args []string) lb.BGPPeer {
	p := lb.BGPPeer{Name: args[0], Created: time.Unix(int64(len(w.snapshot.BGPPeers)), 0), MyASN: 65000, PeerASN: 65001, Address: netip.MustParseAddr(args[1])}
	for _, arg := range args[2:] {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "nodes":
			p.NodeSelectors = parseSelectors(value)
		default:
			w.t.Fatalf("bgppeer: %q", arg)
		}
	}
	return p
}

// record writes down for every address where it is to be placed.
func (w *world) record() string {
	var b strings.Builder
	learn(w.members, w.speakers)
	for _, v := range Decide(NewIndex(w.divided(), eligibility.Options{}), w.members, nil, "").Decisions {
		if v.Place == v.Placed {
			continue
		}
		fmt.Fprintf(&b, "%v is on %s", v.Address, v.Place)
		if v.Placed != "" {
			fmt.Fprintf(&b, ", was on %s", v.Placed)
		}
		b.WriteString("\n")
		for i := range w.snapshot.Services {
			s := &w.snapshot.Services[i]
			if n := slices.Index(s.Assigned, v.Address); n >= 0 {
				s.Placed = append(slices.Clone(s.Placed), "", "")[:len(s.Assigned)]
				s.Placed[n] = v.Place
			}
		}
	}
	return b.String()
}

// sites prints what placement is told about every address.
func (w *world) sites(of []string) string {
	var b strings.Builder
	ix := NewIndex(w.divided(), eligibility.Options{})
	sites := ix.Sites()
	if len(of) > 0 {
		sites = ix.SitesOf(of[0])
	}
	for _, s := range sites {
		if !s.Advertised {
			fmt.Fprintf(&b, "%v is not advertised\n", s.Address)
			continue
		}
		fmt.Fprintf(&b, "%v", s.Address)
		if s.Placed != "" {
			fmt.Fprintf(&b, " on %s", s.Placed)
		}
		b.WriteString(", any of")
		for i, n := range s.Nodes {
			fmt.Fprintf(&b, " %s", n.Name)
			if n.Weight > 0 {
				fmt.Fprintf(&b, ":%d", n.Weight)
			}
			if n.NotReady {
				b.WriteString("?")
			}
			if slices.Contains(s.Local, i) {
				b.WriteString("*")
			}
		}
		if s.Failback == lb.FailbackImmediate {
			b.WriteString(", failing back")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// decide prints the owner of every address, and what every member does.
func (w *world) decide() string {
	ix := NewIndex(w.divided(), eligibility.Options{})
	learn(w.members, w.speakers)
	var b strings.Builder
	for i, v := range Decide(ix, w.members, nil, "").Decisions {
		fmt.Fprintf(&b, "%v ", v.Address)
		if v.Owner == "" {
			fmt.Fprintf(&b, "nobody: %v", v.Reason)
		} else {
			fmt.Fprintf(&b, "-> %s", v.Owner)
		}
		for _, m := range w.members {
			intent := Decide(ix, w.members, nil, m.Node)
			if got := intent.Decisions[i].Owner; got != v.Owner {
				fmt.Fprintf(&b, " BUT %s: %s", m.Node, got)
			}
			if role := intent.Decisions[i].Role; role != election.Backup {
				fmt.Fprintf(&b, ", %s is %v on", m.Node, role)
				for _, n := range intent.Decisions[i].Interfaces {
					fmt.Fprintf(&b, " %d", n)
				}
			}
		}
		if v.Placed != "" && v.Placed != v.Owner {
			fmt.Fprintf(&b, ", placed on %s", v.Placed)
			if !v.Fit {
				b.WriteString(", which cannot take it")
			}
		}
		var barred []string
		for _, m := range w.members {
			if Decide(ix, w.members, nil, m.Node).Decisions[i].Barred {
				barred = append(barred, m.Node)
			}
		}
		if len(barred) > 0 {
			fmt.Fprintf(&b, "; barred: %s", strings.Join(barred, " "))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// gossip lets every member claim what it answers for, and all hear of it.
func (w *world) gossip() {
	gossip(NewIndex(w.divided(), eligibility.Options{}), w.members, w.speakers)
}

// learn tells every member of the others.
func learn(members []election.Member, speakers map[string]*speaker) {
	for _, m := range members {
		s := speakers[m.Node]
		if s == nil {
			s = &speaker{met: map[string]bool{}}
			speakers[m.Node] = s
		}
		for _, o := range members {
			s.met[o.Node] = s.met[o.Node] || o.State == election.Alive
		}
	}
}

func gossip(ix *Index, members []election.Member, speakers map[string]*speaker) {
	next := make([]election.Claims, len(members))
	learn(members, speakers)
	for i, m := range members {
		s := speakers[m.Node]
		l := &s.own
		for _, o := range members {
			for _, c := range o.Claims {
				l.Witness(c.Epoch)
			}
		}
		var owned, offered []netip.Addr
		intent := Decide(ix, members, nil, m.Node)
		for _, v := range intent.Decisions {
			if v.Role != election.Backup {
				owned = append(owned, v.Address)
			}
			if s.failback.Offers(v.Address, m.Node, v.Role, v.Placed, v.Failback, v.Fit, s.met[v.Placed]) {
				offered = append(offered, v.Address)
			}
		}
		l.Set(owned, election.Majority)
		l.Offer(offered)
		next[i] = l.Claims()
	}
	for i := range members {
		members[i].Claims = next[i]
	}
}

// put replaces the element of the same name, or appends.
func put[T any](list *[]T, v T, name func(T) string) {
	if i := slices.IndexFunc(*list, func(o T) bool { return name(o) == name(v) }); i >= 0 {
		(*list)[i] = v
		return
	}
	*list = append(*list, v)
}

func (w *world) pool(args []string) lb.Pool {
	p := lb.Pool{Name: args[0], AutoAssign: true, Created: time.Unix(int64(len(w.snapshot.Pools)), 0)}
	for _, arg := range args[1:] {
		if labels, ok := strings.CutPrefix(arg, "label="); ok {
			p.Labels = parseLabels(labels)
			continue
		}
		first, last, ok := strings.Cut(arg, "-")
		if !ok {
			last = first
		}
		p.Ranges = append(p.Ranges, lb.AddressRange{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)})
	}
	return p
}

func (w *world) ad(args []string) lb.L2Advertisement {
	ad := lb.L2Advertisement{Name: args[0], Created: time.Unix(int64(len(w.snapshot.L2Advertisements)), 0)}
	for _, arg := range args[1:] {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "pools":
			ad.Pools = strings.Split(value, ",")
		case "poolsel":
			ad.PoolSelectors = parseSelectors(value)
		case "services":
			ad.ServiceSelectors = parseSelectors(value)
		case "nodes":
			ad.NodeSelectors = parseSelectors(value)
		case "if":
			ad.Interfaces = strings.Split(value, ",")
		case "prefer":
			for p := range strings.SplitSeq(value, ",") {
				weight, selector, _ := strings.Cut(p, ":")
				ad.PreferredNodes = append(ad.PreferredNodes, lb.NodePreference{Weight: number(weight), Preference: parseSelectors(selector)[0]})
			}
		case "!failback":
			ad.Failback = lb.FailbackImmediate
		case "notif":
			ad.ExcludeInterfaces = strings.Split(value, ",")
		default:
			w.t.Fatalf("ad: %q", arg)
		}
	}
	return ad
}

func (w *world) node(args []string) lb.Node {
	n := lb.Node{Name: args[0], Labels: map[string]string{}}
	for _, arg := range args[1:] {
		switch arg {
		case "!exclude":
			n.Labels[lb.LabelExcludeLB] = ""
		case "!unavailable":
			n.NetworkUnavailable = true
		case "!drain":
			n.Drain = true
		case "!unready":
			n.NotReady = true
		default:
			key, value, _ := strings.Cut(arg, "=")
			if key == "ip" {
				n.Addresses = addresses(value)
				continue
			}
			n.Labels[key] = value
		}
	}
	return n
}

func addresses(list string) (all []netip.Addr) {
	for text := range strings.SplitSeq(list, ",") {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func (w *world) member(args []string) election.Member {
	m := election.Member{Node: args[0], State: election.Alive}
	if i := slices.IndexFunc(w.members, func(o election.Member) bool { return o.Node == m.Node }); i >= 0 {
		m = w.members[i]
		m.State = election.Alive
		if len(args) > 1 && strings.Contains(strings.Join(args, ""), "=") {
			m.Interfaces = nil
		}
	}
	for _, arg := range args[1:] {
		switch arg {
		case "joining":
			m.State = election.Joining
			continue
		case "suspected":
			m.State = election.Suspected
			continue
		case "stalled":
			m.State = election.Stalled
			continue
		case "leaving":
			m.State = election.Leaving
			continue
		}
		name, subnets, _ := strings.Cut(arg, "=")
		name, fault, _ := strings.Cut(name, "!")
		i := lb.Interface{Index: len(m.Interfaces) + 2, Name: name, MAC: lb.MAC{2, 5: m.Node[0]}, Up: true, Carrier: true}
		switch fault {
		case "":
		case "down":
			i.Up, i.Carrier = false, false
		case "nocarrier":
			i.Carrier = false
		case "enslaved":
			i.Enslaved = true
		case "noarp":
			i.NoARP = true
		default:
			w.t.Fatalf("fault %q", fault)
		}
		for p := range strings.SplitSeq(subnets, ",") {
			p, elsewhere := strings.CutSuffix(p, "!elsewhere")
			if p == "" {
				continue
			}
			i.Addresses = append(i.Addresses, netip.MustParsePrefix(p))
			if elsewhere {
				i.Elsewhere = append(i.Elsewhere, netip.MustParsePrefix(p).Masked())
			}
		}
		m.Interfaces = append(m.Interfaces, i)
	}
	return m
}

func (w *world) service(args []string) lb.Service {
	namespace, name, _ := strings.Cut(args[0], "/")
	s := lb.Service{Key: lb.ServiceKey{Namespace: namespace, Name: name}}
	var placed []string
	for _, arg := range args[1:] {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "Local":
			s.TrafficPolicy = lb.TrafficLocal
		case "on":
			placed = strings.Split(value, ",")
		case "!released":
			s.Released = true
		case "!foreign":
			s.Foreign = true
		case "label":
			s.Labels = lb.LabelsOf(parseLabels(value))
		case "ep", "ep4", "ep6":
			counts := lb.NodeEndpoints{}
			for e := range strings.SplitSeq(value, ",") {
				node, count, _ := strings.Cut(e, ":")
				ready, terminating, _ := strings.Cut(count, "+")
				counts[node] = lb.EndpointCount{Ready: number(ready), Terminating: number(cmp.Or(terminating, "0"))}
			}
			if key != "ep6" {
				s.Endpoints.IPv4 = counts
			}
			if key != "ep4" {
				s.Endpoints.IPv6 = counts
			}
		default:
			a, pool, _ := strings.Cut(arg, "@")
			s.Assigned = append(s.Assigned, netip.MustParseAddr(a))
			s.AssignedPools = append(s.AssignedPools, pool)
		}
	}
	s.Placed = placed
	for len(placed) == 1 && len(s.Placed) < len(s.Assigned) {
		s.Placed = append(s.Placed, placed[0])
	}
	return s
}

func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

func parseLabels(s string) map[string]string {
	labels := map[string]string{}
	for term := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(term, "=")
		labels[key] = value
	}
	return labels
}

// parseSelectors reads selectors joined by |; each is terms joined by comma:
// k=v, k (exists), or !k (does not exist).
func parseSelectors(s string) []lb.Selector {
	var out []lb.Selector
	for text := range strings.SplitSeq(s, "|") {
		var sel lb.Selector
		for term := range strings.SplitSeq(text, ",") {
			key, value, equals := strings.Cut(term, "=")
			absent, not := strings.CutPrefix(key, "!")
			switch {
			case equals:
				sel = append(sel, lb.Requirement{Key: key, Operator: lb.In, Values: []string{value}})
			case not:
				sel = append(sel, lb.Requirement{Key: absent, Operator: lb.DoesNotExist})
			default:
				sel = append(sel, lb.Requirement{Key: key, Operator: lb.Exists})
			}
		}
		out = append(out, sel)
	}
	return out
}
