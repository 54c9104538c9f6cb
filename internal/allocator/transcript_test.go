package allocator

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/transcript"
)

// A story is a cluster told in lines:
//
//	pool NAME RANGE... [auto=off] [buggy=avoid] [drain] [deleting] [shared] [orphans=reassign]
//	     [strategy=first|hash] [retain=1h] [priority=1] [namespaces=a,b] [tier=gold] [limit=2] [older] [records=A,A]
//	pool NAME gone
//	node NAME ADDRESS...
//	external NAMESPACE/NAME ADDRESS...                    the externalIPs of a Service
//	service NAMESPACE/NAME [families=4|6|46|64|none] [prefer|require] [address=A,A] [pool=P] [key=K] [ports=TCP/80,...]
//	     [local] [selects=x] [tier=gold] [token=T] [headless] [class=other] [problem=TEXT] [holds=A@POOL,A@] [withdrawn=A,A]
//	     [shows=HOSTNAME] [older]
//	service NAMESPACE/NAME gone
//	now +1h
//
// A service keeps what is not said anew. Then plan plans, writes what was
// decided and plans again, until nothing changes; once plans and writes nothing;
// pools shows the pools; leader puts a new planner in place.
type story struct {
	t        *testing.T
	planner  *Planner
	now      time.Time
	pools    map[string]lb.Pool
	nodes    map[string]lb.Node
	external []lb.ExternalIP
	services map[lb.ServiceKey]lb.Service
	said     map[string]PoolDecision
	told     map[lb.ServiceKey]string
}

func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", func(t *testing.T) transcript.World { return newStory(t) })
}

func newStory(t *testing.T) *story {
	return &story{
		t: t, planner: New(), now: epoch,
		pools: map[string]lb.Pool{}, nodes: map[string]lb.Node{}, services: map[lb.ServiceKey]lb.Service{},
		said: map[string]PoolDecision{}, told: map[lb.ServiceKey]string{},
	}
}

// Line does what a line says.
func (s *story) Line(line string) string {
	s.t.Helper()
	var out strings.Builder
	command, _, _ := strings.Cut(line, "#")
	if err := s.do(strings.Fields(command), &out); err != nil {
		s.t.Fatalf("%q: %v", line, err)
	}
	return out.String()
}

func (s *story) do(words []string, out *strings.Builder) error {
	switch words[0] {
	case "pool":
		return s.pool(words[1], words[2:])
	case "node":
		n := lb.Node{Name: words[1]}
		for _, a := range words[2:] {
			n.Addresses = append(n.Addresses, netip.MustParseAddr(a))
		}
		s.nodes[n.Name] = n
		s.tellNodes()
	case "external":
		namespace, name, _ := strings.Cut(words[1], "/")
		key := lb.ServiceKey{Namespace: namespace, Name: name}
		s.external = slices.DeleteFunc(s.external, func(e lb.ExternalIP) bool { return e.Service == key })
		for _, a := range words[2:] {
			s.external = append(s.external, lb.ExternalIP{Address: netip.MustParseAddr(a), Service: key})
		}
		s.planner.SetExternal(s.external)
	case "service":
		return s.service(words[1], words[2:])
	case "now":
		d, err := time.ParseDuration(strings.TrimPrefix(words[1], "+"))
		s.now = s.now.Add(d)
		return err
	case "plan":
		for range 20 {
			if !s.plan(out, true) {
				return nil
			}
		}
		return fmt.Errorf("it never ends")
	case "leader": // one that knows nothing but the objects
		s.planner = New()
		s.tellPools()
		s.tellNodes()
		s.planner.SetExternal(s.external)
		for _, v := range s.services {
			s.planner.Put(v)
		}
	case "once":
		s.plan(out, false)
	case "pools":
		s.show(out)
	default:
		return fmt.Errorf("what is %q?", words[0])
	}
	return nil
}

func (s *story) pool(name string, words []string) error {
	p, known := s.pools[name]
	p.Name, p.AutoAssign = name, true
	if !known {
		p.Created = epoch.Add(time.Duration(len(s.pools)) * time.Hour)
	}
	kept := p
	p = lb.Pool{Name: name, Created: kept.Created, AutoAssign: true, Freed: kept.Freed, Records: kept.Records}
	restrict := func() *lb.ServiceAllocation {
		if p.Allocation == nil {
			p.Allocation = &lb.ServiceAllocation{}
		}
		return p.Allocation
	}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		var err error
		switch key {
		case "gone":
			delete(s.pools, name)
			s.tellPools()
			return nil
		case "auto":
			p.AutoAssign = false
		case "buggy":
			p.AvoidBuggyIPs = true
		case "drain":
			p.Drain = true
		case "deleting":
			p.Deleting = true
		case "shared":
			p.SharedAcrossNamespaces = true
		case "orphans":
			p.Orphans = lb.OrphanReassign
		case "strategy":
			p.Strategy = map[string]lb.Strategy{"first": lb.FirstFree, "hash": lb.Hash}[value]
		case "retain":
			p.Retention, err = time.ParseDuration(value)
		case "priority":
			restrict().Priority, err = strconv.Atoi(value)
		case "namespaces":
			restrict().Namespaces = strings.Split(value, ",")
		case "tier":
			restrict().ServiceSelectors = []lb.Selector{{{Key: "tier", Operator: lb.In, Values: []string{value}}}}
		case "limit":
			restrict().PerNamespaceLimit, err = strconv.Atoi(value)
		case "records":
			p.Records = nil
			for a := range strings.SplitSeq(value, ",") {
				p.Records = append(p.Records, netip.MustParseAddr(a))
			}
		case "older":
			p.Created = epoch.Add(-time.Hour)
		default:
			r := lb.AddressRange{}
			if first, last, ok := strings.Cut(w, "-"); ok {
				r = lb.AddressRange{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}
			} else if strings.Contains(w, "/") {
				r = rangeOf(w)
			} else {
				r = lb.AddressRange{First: netip.MustParseAddr(w), Last: netip.MustParseAddr(w)}
			}
			p.Ranges = append(p.Ranges, r)
		}
		if err != nil {
			return err
		}
	}
	slices.SortFunc(p.Ranges, func(a, b lb.AddressRange) int { return a.First.Compare(b.First) })
	s.pools[name] = p
	s.tellPools()
	return nil
}

func (s *story) tellPools() {
	var pools []lb.Pool
	for _, p := range s.pools {
		pools = append(pools, p)
	}
	s.planner.SetPools(divided(pools))
}

func (s *story) tellNodes() {
	var nodes []lb.Node
	for _, n := range s.nodes {
		nodes = append(nodes, n)
	}
	s.planner.SetNodes(nodes)
}

func (s *story) service(name string, words []string) error {
	namespace, short, _ := strings.Cut(name, "/")
	key := lb.ServiceKey{Namespace: namespace, Name: short}
	v, known := s.services[key]
	if !known {
		v = lb.Service{
			Key: key, UID: fmt.Sprint(len(s.told), name), Created: epoch.Add(time.Duration(len(s.services)) * time.Minute),
			Families: []lb.Family{lb.IPv4}, Ports: []lb.Port{{Protocol: lb.TCP, Number: 80}},
		}
	}
	for _, w := range words {
		k, value, _ := strings.Cut(w, "=")
		switch k {
		case "gone":
			delete(s.services, key)
			s.planner.Delete(key)
			return nil
		case "families":
			v.Families = map[string][]lb.Family{
				"4": {lb.IPv4}, "6": {lb.IPv6}, "46": {lb.IPv4, lb.IPv6}, "64": {lb.IPv6, lb.IPv4}, "none": nil,
			}[value]
		case "single":
			v.FamilyPolicy = lb.SingleStack
		case "prefer":
			v.FamilyPolicy = lb.PreferDualStack
		case "require":
			v.FamilyPolicy = lb.RequireDualStack
		case "address":
			v.Request.Addresses = nil
			for a := range strings.SplitSeq(value, ",") {
				if a != "" {
					v.Request.Addresses = append(v.Request.Addresses, netip.MustParseAddr(a))
				}
			}
		case "pool":
			v.Request.Pool = value
		case "key":
			v.Request.SharingKey = value
		case "token":
			v.Request.Reallocate = value
		case "problem":
			v.Request.Problems = nil
			if value != "" {
				v.Request.Problems = []string{strings.ReplaceAll(value, "_", " ")}
			}
		case "ports":
			v.Ports = nil
			for p := range strings.SplitSeq(value, ",") {
				protocol, n, _ := strings.Cut(p, "/")
				number, err := strconv.ParseUint(n, 10, 16)
				if err != nil {
					return err
				}
				v.Ports = append(v.Ports, lb.Port{Protocol: lb.ParseProtocol(protocol), Number: uint16(number)})
			}
		case "local":
			v.TrafficPolicy = lb.TrafficLocal
		case "selects":
			v.PodSelector = value
		case "tier":
			v.Labels = lb.LabelsOf(map[string]string{"tier": value})
		case "headless":
			v.Headless = true
		case "class":
			v.Released, v.Foreign = value != "ours" && value != "foreign", value == "foreign"
		case "older":
			v.Created = epoch.Add(-time.Hour)
		case "shows":
			v.Others = append(v.Others, value)
		case "withdrawn":
			v.Withdrawn = nil
			for a := range strings.SplitSeq(value, ",") {
				v.Withdrawn = append(v.Withdrawn, netip.MustParseAddr(a))
			}
		case "holds":
			for h := range strings.SplitSeq(value, ",") {
				a, pool, _ := strings.Cut(h, "@")
				v.Assigned = append(v.Assigned, netip.MustParseAddr(a))
				v.AssignedPools = append(v.AssignedPools, pool)
			}
		default:
			return fmt.Errorf("what is %q?", w)
		}
	}
	s.services[key] = v
	s.planner.Put(v)
	return nil
}

// plan plans once and reports whether there was anything new.
func (s *story) plan(out *strings.Builder, write bool) (news bool) {
	r := s.planner.Plan(s.now)
	for _, d := range r.Services {
		v := s.services[d.Service]
		line := fmt.Sprintf("%-8s %-18s %s\n", d.Service, d.Reason, d.Sentence())
		if s.told[d.Service] != v.UID+line || d.Changes(v) {
			news = true
			s.told[d.Service] = v.UID + line
			out.WriteString(line)
			for _, rel := range d.Released {
				fmt.Fprintf(out, "%-8s %-18s %s\n", "", rel.Cause, rel.Sentence())
			}
		}
		if write && d.Changes(v) {
			s.services[d.Service] = d.Apply(v)
			s.planner.Put(s.services[d.Service])
		}
	}
	for _, d := range r.Pools {
		s.said[d.Pool] = d
		if p, ok := s.pools[d.Pool]; ok && write {
			p.Freed = d.Freed
			s.pools[d.Pool] = p
		}
	}
	if write {
		s.tellPools()
	}
	return news
}

func (s *story) show(out *strings.Builder) {
	names := make([]string, 0, len(s.pools))
	for name := range s.pools {
		names = append(names, name)
	}
	slices.SortFunc(names, cmp.Compare)
	number := func(n uint64) string {
		if n == math.MaxUint64 {
			return "plenty"
		}
		return fmt.Sprint(n)
	}
	for _, name := range names {
		d := s.said[name]
		fmt.Fprintf(out, "%s", name)
		if d.InUse {
			fmt.Fprintf(out, " in use")
		}
		for f, c := range []Count{d.V4, d.V6} {
			if c != (Count{}) {
				fmt.Fprintf(out, "  %v: %s total, %d assigned, %s available, %d reserved, %d orphans",
					families[f], number(c.Total), c.Assigned, number(c.Available), c.Reserved, c.Orphans)
			}
		}
		fmt.Fprintln(out)
		for _, e := range d.Freed {
			fmt.Fprintf(out, "  freed %v %s %v\n", e.Address, e.At.Format("15:04:05"), e.Service)
		}
	}
}
