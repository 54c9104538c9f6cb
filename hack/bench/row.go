package main

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"time"
)

// A unit says what a figure counts.
type unit string

const (
	inSeconds unit = "s"
	inCPU     unit = "CPU-s"
	inBytes   unit = "B"
	inRatio   unit = "x"
	inCount   unit = "1"
)

// A row is one line of the table.
type row struct {
	Name string `json:"row"`
	Unit unit   `json:"unit"`
	// Budget is what the figure must not exceed; nil when it is only watched.
	Budget *float64 `json:"budget,omitempty"`
	// Peer is what the best of our peers needs on the same lab, where it was
	// measured.
	Peer string `json:"peer,omitempty"`
	// What says what is measured.
	What string `json:"what"`
}

func within(limit float64) *float64 { return &limit }

// catalog is every row there is.
var catalog = []row{
	{"allocate/1k", inSeconds, nil, "", "1,000 Services one after the other: seen, planned, written, seen again"},
	{"allocate/4k", inSeconds, nil, "", "the same for 4,000"},
	{"allocate/16k", inSeconds, within(0.5), "298 s", "the same for 16,000"},
	{"allocate/64k", inSeconds, nil, "", "the same for 64,000"},
	{"allocate/linear", inRatio, within(2), "quadratic", "time per Service among 64,000 against among 1,000"},
	{"allocate/exhausted", inSeconds, within(1e-6), "6.5-11.8 ms", "one more look at a Service that an exhausted /20 cannot serve"},
	{"allocate/waiting", inBytes, within(40e6), "", "memory kept for 20,000 Services that wait for 200 full pools"},
	{"allocate/waiting-look", inSeconds, nil, "", "one more look at each of them, for an address that came free and was taken"},
	{"allocate/pools", inSeconds, within(0.2), "", "compiling 8,000 disjoint pools and laying them out"},
	{"allocate/pools-memory", inBytes, within(30e6), "", "memory allocated for that"},
	{"allocate/wrong", inSeconds, nil, "", "planning for 8,000 Services that all hold one address and may not share it, until each has another"},
	{"allocate/wrong-linear", inRatio, within(3), "", "time per Service among these 8,000 against among 1,000"},
	{"keep/controller", inBytes, within(2048), "", "bytes that the controller keeps of a Service beyond those of a plain one, whatever annotations, labels, ports and selectors its author writes; the greediest found"},
	{"keep/speaker", inBytes, within(2048), "", "the same of a speaker"},
	{"lookup/hit", inSeconds, nil, "", "a question for one of 10,000 addresses, from table to verdict"},
	{"lookup/miss", inSeconds, within(50e-9), "965 us", "a question for none of them"},
	{"lookup/allocations", inCount, within(0), "", "memory allocations of either"},
	{"decide/index", inSeconds, nil, "", "arranging 10,000 Services and 1,000 nodes by address"},
	{"decide/settled", inSeconds, nil, "", "who announces each of the 10,000, from scratch"},
	{"decide/node-lost", inSeconds, within(5e-3), "", "the same when one of the 1,000 is gone, after it was decided before"},
	{"gossip/3", inSeconds, within(1), "", "until the last of 3 members has given up one that lost its power, on a virtual clock; the worst trial"},
	{"gossip/30", inSeconds, within(1), "", "the same for 30"},
	{"gossip/100", inSeconds, within(1), "", "the same for 100"},
	{"gossip/300", inSeconds, within(1), "", "the same for 300, in half as many trials"},
	{"gossip/3-cost", inBytes, nil, "", "what each of 3 members sends in a second in which nothing happens, headers included"},
	{"gossip/30-cost", inBytes, nil, "", "the same for 30"},
	{"gossip/100-cost", inBytes, nil, "", "the same for 100"},
	{"gossip/300-cost", inBytes, nil, "", "the same for 300"},
	{"gossip/wrong", inCount, within(0), "", "how often a member was given up in all of that which lived, though packets got lost and processes were stopped for up to 1 s"},
	{"gossip/sockets", inCPU, nil, "", "processor time of one of 3 members in a second in which nothing happens, in real time, over sockets"},
	{"binary/controller", inBytes, within(30e6), "64 MB", "the controller's binary, stripped"},
	{"binary/speaker", inBytes, within(30e6), "66 MB", "the speaker's binary, stripped"},
	{"binary/kubectl-belfry", inBytes, within(30e6), "", "the plugin's binary, stripped"},
	{"idle/controller", inBytes, within(28e6), "55 MB", "resident memory of a controller that leads, without Services"},
	{"idle/speaker", inBytes, within(32e6), "60-63 MB", "resident memory of a speaker among three, without Services; the largest"},
	{"answer/arp", inRatio, within(2), "", "median time until an ARP request is answered, speaker against kernel"},
	{"answer/ndp", inRatio, within(2), "", "the same for Neighbor Solicitations"},
	{"failover/link", inSeconds, within(0.16), "5.6 s", "longest silence for a client when the owner's link is cut; the worst trial"},
	{"failover/keepalived", inSeconds, nil, "", "the same for keepalived, with an advertisement every 50 ms"},
	{"failover/kill", inSeconds, within(0.16), "5.1 s", "the same when the owner's speaker is killed"},
	{"failover/power", inSeconds, within(0.16), "", "the same when the owner is powered off"},
	{"failover/down", inSeconds, within(0.16), "", "the same when the owner's interface is taken down"},
	{"failover/term", inCount, within(0), "0.04-0.2 s", "questions that go unanswered when the owner's speaker is terminated, of all trials"},
	{"failover/heal", inSeconds, within(0.2), "32 s", "how long two nodes answer after a partition between them has healed; the worst trial"},
	{"bgp/told", inSeconds, nil, "", "from the request that takes a node's endpoint away until the UPDATE about it is on the router's link"},
	{"bgp/withdraw", inSeconds, nil, "", "from the request that takes a node's endpoint away until the router's kernel sends that node nothing more"},
	{"bgp/withdraw-bird", inSeconds, within(0.08), "", "the same with BIRD as the router"},
	{"bgp/cold", inSeconds, within(1.2), "", "10,000 prefixes to FRR, from no session to all of them"},
	{"bgp/reset", inSeconds, nil, "", "from FRR's reset of that session until it has all of them again"},
	{"bgp/session-rss", inBytes, nil, "", "resident memory of one more session"},
	{"bgp/prefixes-rss", inBytes, nil, "", "resident memory of 1,000 prefixes in one session"},
	{"bgp/rest-cpu", inCPU, nil, "", "what 33 sessions cost in 10 s in which nothing happens"},
	{"create/wall", inRatio, within(1.5), "", "creating 3,000 Services until all have an address, against the same without us"},
	{"create/announced", inSeconds, nil, "", "until all of them are announced"},
	{"create/latency", inSeconds, nil, "", "from the first sight of a Service until its address is written, 99th percentile"},
	{"create/writes", inCount, within(2), "", "what all of us write to the API server for each Service, leases aside"},
	{"create/controller-cpu", inCPU, within(6), "30 CPU-s", "what it costs the controller, until all are announced and nothing is written any more"},
	{"create/controller-rss", inBytes, within(60e6), "105 MB", "the controller's peak of resident memory by then"},
	{"create/controller-limit", inRatio, within(0.5), "", "the most that its control group held by then, of the limit of memory that is shipped"},
	{"create/speaker-cpu", inCPU, within(3), "18.5 CPU-s", "what it costs each of three speakers; the most"},
	{"create/speaker-rss", inBytes, within(55e6), "118-140 MB", "a speaker's peak of resident memory by then; the largest"},
	{"create/cpu", inCPU, within(15), "", "what it costs all four of them together"},
	{"create/speaker-limit", inRatio, within(0.5), "", "the most that its control group held by then, of the limit of memory that is shipped; the fullest"},
	{"restart/ready", inSeconds, nil, "", "a controller's start with 3,000 Services until it has adopted all of them"},
	{"restart/writes", inCount, within(0), "", "what it writes to the API server, leases aside"},
	{"restart/cpu", inCPU, nil, "", "what it costs the controller"},
	{"plugin/status", inSeconds, within(1), "", "kubectl belfry status over 3,000 Services, from its start to its end; the best of five"},
	{"quiet/requests", inCount, within(0), "", "requests of all of us in 20 s with 3,000 Services, leases and watches aside"},
}

func rowNamed(name string) row {
	i := slices.IndexFunc(catalog, func(r row) bool { return r.Name == name })
	if i < 0 {
		panic("no such row: " + name)
	}
	return catalog[i]
}

// selected returns the rows that patterns name, all without patterns.
func selected(patterns []string) ([]row, error) {
	if len(patterns) == 0 {
		return catalog, nil
	}
	used := make([]bool, len(patterns))
	rows := slices.DeleteFunc(slices.Clone(catalog), func(r row) bool {
		chosen := false
		for i, p := range patterns {
			if matches(p, r.Name) {
				chosen, used[i] = true, true
			}
		}
		return !chosen
	})
	if i := slices.Index(used, false); i >= 0 {
		return nil, fmt.Errorf("--only %q: there is no such row (--list says which there are)", patterns[i])
	}
	return rows, nil
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return err == nil && ok || strings.HasPrefix(name, pattern+"/")
}

func needed(e experiment, rows []row) bool {
	return slices.ContainsFunc(rows, func(r row) bool { return slices.Contains(e.rows, r.Name) })
}

// A figure is what was measured for a row.
type figure struct {
	row
	Value  float64 `json:"value"`
	Detail string  `json:"detail,omitempty"`
	// Missing is set when it could not be measured.
	Missing bool `json:"missing,omitempty"`
	// Verdict is "ok" or "MISSED" where there is a budget.
	Verdict string `json:"verdict,omitempty"`
}

func (f figure) verdict() string {
	switch {
	case f.Missing:
		return "FAILED"
	case f.Budget == nil:
		return ""
	case f.Value > *f.Budget:
		return "MISSED"
	default:
		return "ok"
	}
}

func (f figure) measured() string {
	if f.Missing {
		return "-"
	}
	return f.Unit.format(f.Value)
}

func (f figure) budget() string {
	if f.Budget == nil {
		return ""
	}
	return f.Unit.format(*f.Budget)
}

// format writes a value with three digits that mean something.
func (u unit) format(v float64) string {
	switch {
	case u == inSeconds:
		return duration(time.Duration(v * float64(time.Second)))
	case u == inCPU:
		return fmt.Sprintf("%.3g CPU-s", v)
	case u == inBytes && v < 1e5:
		return fmt.Sprintf("%.3g kB", v/1e3)
	case u == inBytes:
		return fmt.Sprintf("%.3g MB", v/1e6)
	case u == inRatio:
		return fmt.Sprintf("%.3g x", v)
	case v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}

// duration writes a duration with three digits, in ASCII.
func duration(d time.Duration) string {
	switch v := float64(d); {
	case d < 0:
		return "-" + duration(-d)
	case d < time.Microsecond:
		return fmt.Sprintf("%.3g ns", v)
	case d < time.Millisecond:
		return fmt.Sprintf("%.3g us", v/1e3)
	case d < time.Second:
		return fmt.Sprintf("%.3g ms", v/1e6)
	default:
		return fmt.Sprintf("%.3g s", v/1e9)
	}
}

// seconds is a duration as JSON has it.
func seconds(d time.Duration) float64 { return d.Seconds() }
