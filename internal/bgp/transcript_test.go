package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

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
//	pool NAME FIRST-LAST... [label=K=V,..]    the pool "everything" is there from the
//	        start, and has what no other has
//	ad NAME [pools=A,B] [poolsel=SEL|SEL] [services=SEL|..] [nodes=SEL|..] [peers=A,B]
//	        [agg=N] [agg6=N] [pref=N] [med=N] [prepend=N] [comm=C,..] [weigh]
//	peer NAME ADDR|INTERFACE our=ASN [port=N] [as=ASN|internal|external] [local=ASN] [families=4,6] [nodes=SEL|..]
//	node NAME [ip=ADDR,..] [K=V ..] [!exclude] [!unavailable]
//	service NS/NAME ADDR[@POOL]... [Local] [!released] [label=K=V,..] [ep=NODE:READY[+TERMINATING],..]
//	  (ep4=, ep6= for those of one family)
//	delete KIND NAME
//	phase serving|leaving|left
//
//	decide NODE
//	changes NODE    what is new since the last decide or changes for that node
func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", func(t *testing.T) transcript.World {
		return &world{t: t, snapshot: lb.Snapshot{Pools: []lb.Pool{lbtest.Everything()}}, last: map[string]Intent{}}
	})
}

// A world is a snapshot that transcripts build by name.
type world struct {
	t        *testing.T
	snapshot lb.Snapshot
	options  Options
	last     map[string]Intent
	born     int64
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
	s := &w.snapshot
	w.born++
	switch verb {
	case "pool":
		put(&s.Pools, w.pool(args), func(p lb.Pool) string { return p.Name })
	case "ad":
		put(&s.BGPAdvertisements, w.ad(args), func(a lb.BGPAdvertisement) string { return a.Name })
	case "peer":
		put(&s.BGPPeers, w.peer(args), func(p lb.BGPPeer) string { return p.Name })
	case "node":
		put(&s.Nodes, w.node(args), func(n lb.Node) string { return n.Name })
	case "service":
		put(&s.Services, w.service(args), func(s lb.Service) string { return s.Key.String() })
	case "delete":
		switch name := args[1]; args[0] {
		case "pool":
			s.Pools = slices.DeleteFunc(s.Pools, func(p lb.Pool) bool { return p.Name == name })
		case "ad":
			s.BGPAdvertisements = slices.DeleteFunc(s.BGPAdvertisements, func(a lb.BGPAdvertisement) bool { return a.Name == name })
		case "service":
			s.Services = slices.DeleteFunc(s.Services, func(s lb.Service) bool { return s.Key.String() == name })
		default:
			w.t.Fatalf("delete %s", args[0])
		}
	case "phase":
		w.options.Phase = map[string]Phase{"serving": Serving, "leaving": Leaving, "left": Left}[args[0]]
	case "stop":
		w.options.Stop = map[string]Phase{"serving": Serving, "leaving": Leaving, "left": Left}[args[0]]
	case "recent":
		w.options.Recent = map[ServiceFamily]bool{}
		for _, arg := range args {
			arg, only, _ := strings.Cut(arg, ":")
			namespace, name, _ := strings.Cut(arg, "/")
			for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
				if only == "" || family.String() == only {
					w.options.Recent[ServiceFamily{lb.ServiceKey{Namespace: namespace, Name: name}, family}] = true
				}
			}
		}
	case "decide":
		w.last[args[0]] = Decide(w.divided(), args[0], w.options)
		return show(w.last[args[0]])
	case "changes":
		before, after := w.last[args[0]], Decide(w.divided(), args[0], w.options)
		w.last[args[0]] = after
		return showChanges(before, after)
	default:
		w.t.Fatalf("unknown line %q", line)
	}
	return ""
}

func show(i Intent) string {
	var b strings.Builder
	for _, s := range i.Sessions {
		fmt.Fprintf(&b, "%s:\n", s.Peer.Name)
		for _, r := range s.Routes {
			fmt.Fprintf(&b, "  %v\n", r)
		}
	}
	for _, v := range i.Decisions {
		what := v.Reason.String()
		if v.Reason == eligibility.Eligible {
			what = "advertised to " + strings.Join(v.Peers, ",")
		}
		fmt.Fprintf(&b, "%v %s\n", v.Address, what)
	}
	for _, c := range i.Conflicts {
		fmt.Fprintf(&b, "conflict %s: %v\n", c.Advertisement, c)
	}
	for _, r := range i.Rivals {
		fmt.Fprintf(&b, "rival %s: %s is older\n", r.Peer, r.Older)
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}

func showChanges(before, after Intent) string {
	var b strings.Builder
	for _, s := range after.Sessions {
		var old []Route
		for _, o := range before.Sessions {
			if o.Peer.Name == s.Peer.Name {
				old = o.Routes
			}
		}
		c := Diff(old, s.Routes)
		for _, r := range c.Announce {
			fmt.Fprintf(&b, "%s: announce %v\n", s.Peer.Name, r)
		}
		for _, p := range c.Withdraw {
			fmt.Fprintf(&b, "%s: withdraw %v\n", s.Peer.Name, p)
		}
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
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
	p := lb.Pool{Name: args[0], AutoAssign: true, Created: time.Unix(w.born, 0)}
	for _, arg := range args[1:] {
		if labels, ok := strings.CutPrefix(arg, "label="); ok {
			p.Labels = parseLabels(labels)
			continue
		}
		first, last, _ := strings.Cut(arg, "-")
		p.Ranges = append(p.Ranges, lb.AddressRange{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)})
	}
	return p
}

func (w *world) ad(args []string) lb.BGPAdvertisement {
	ad := lb.BGPAdvertisement{Name: args[0], Created: time.Unix(w.born, 0)}
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
		case "peers":
			ad.Peers = strings.Split(value, ",")
		case "agg":
			ad.AggregationLength = w.number(value)
		case "agg6":
			ad.AggregationLengthV6 = w.number(value)
		case "pref":
			ad.LocalPref = new(uint32(w.number(value)))
		case "med":
			ad.MED = new(uint32(w.number(value)))
		case "prepend":
			ad.ASPathPrepend = w.number(value)
		case "weigh":
			ad.WeightByEndpoints = true
		case "comm":
			for c := range strings.SplitSeq(value, ",") {
				parsed, err := lb.ParseCommunity(c)
				if err != nil {
					w.t.Fatal(err)
				}
				ad.Communities = append(ad.Communities, parsed)
			}
		default:
			w.t.Fatalf("ad: %q", arg)
		}
	}
	return ad
}

func (w *world) peer(args []string) lb.BGPPeer {
	p := lb.BGPPeer{Name: args[0], Created: time.Unix(w.born, 0), Port: DefaultPort, HoldTime: 90 * time.Second}
	if a, err := netip.ParseAddr(args[1]); err == nil {
		p.Address = a
	} else {
		p.Interface = args[1]
	}
	for _, arg := range args[2:] {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "our":
			p.MyASN = uint32(w.number(value))
		case "port":
			p.Port = uint16(w.number(value))
		case "local":
			p.LocalASN = uint32(w.number(value))
		case "as":
			switch value {
			case "internal":
				p.Kind = lb.PeerInternal
			case "external":
				p.Kind = lb.PeerExternal
			default:
				p.PeerASN = uint32(w.number(value))
			}
		case "families":
			for f := range strings.SplitSeq(value, ",") {
				p.Families = append(p.Families, lb.Family(w.number(f)))
			}
		case "nodes":
			p.NodeSelectors = parseSelectors(value)
		case "restart":
			p.GracefulRestart = &lb.GracefulRestart{}
		default:
			w.t.Fatalf("peer: %q", arg)
		}
	}
	return p
}

func (w *world) node(args []string) lb.Node {
	n := lb.Node{Name: args[0], Labels: map[string]string{}}
	for _, arg := range args[1:] {
		switch arg {
		case "!exclude":
			n.Labels[lb.LabelExcludeLB] = ""
		case "!unavailable":
			n.NetworkUnavailable = true
		default:
			key, value, _ := strings.Cut(arg, "=")
			if key != "ip" {
				n.Labels[key] = value
				continue
			}
			for text := range strings.SplitSeq(value, ",") {
				n.Addresses = append(n.Addresses, addr(text))
			}
		}
	}
	return n
}

func (w *world) service(args []string) lb.Service {
	namespace, name, _ := strings.Cut(args[0], "/")
	s := lb.Service{Key: lb.ServiceKey{Namespace: namespace, Name: name}}
	for _, arg := range args[1:] {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "Local":
			s.TrafficPolicy = lb.TrafficLocal
		case "!released":
			s.Released = true
		case "label":
			s.Labels = lb.LabelsOf(parseLabels(value))
		case "ep", "ep4", "ep6":
			counts := lb.NodeEndpoints{}
			for e := range strings.SplitSeq(value, ",") {
				node, count, _ := strings.Cut(e, ":")
				ready, terminating, _ := strings.Cut(count, "+")
				counts[node] = lb.EndpointCount{Ready: w.number(ready), Terminating: w.number(cmp.Or(terminating, "0"))}
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
	return s
}

func (w *world) number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		w.t.Fatal(err)
	}
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

// parseSelectors reads selectors joined by |, each of terms k=v joined by comma.
func parseSelectors(s string) []lb.Selector {
	var out []lb.Selector
	for text := range strings.SplitSeq(s, "|") {
		var sel lb.Selector
		for term := range strings.SplitSeq(text, ",") {
			key, value, _ := strings.Cut(term, "=")
			sel = append(sel, lb.Requirement{Key: key, Operator: lb.In, Values: []string{value}})
		}
		out = append(out, sel)
	}
	return out
}
