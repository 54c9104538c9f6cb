package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/belfrylb/belfry/hack/lab"
)

// gossipSizes are the clusters measured. A large one takes minutes, so it gets
// fewer trials.
var gossipSizes = []struct{ members, share int }{{3, 1}, {30, 1}, {100, 1}, {300, 2}}

// gossip runs clusters of members in one process and on a virtual clock, by the
// test of internal/election/membership that has what it takes to crash, stop
// and cut them off, and beside each the same number of memberlist's own, by its
// settings for a LAN.
func gossip(ctx context.Context, b *bench) error {
	rows, err := selected(b.only)
	if err != nil {
		return err
	}
	wrong, atTen, living := 0.0, 0.0, 0
	for _, size := range gossipSizes {
		name := fmt.Sprintf("gossip/%d", size.members)
		if !slices.ContainsFunc(rows, func(r row) bool { return r.Name == name || r.Name == name+"-cost" || r.Name == "gossip/wrong" }) {
			continue
		}
		trials := (b.trials + size.share - 1) / size.share
		out, err := testMembership(ctx, "-run=^TestScale$", "-v", "-count=1", "-args", fmt.Sprintf("-sizes=%d", size.members), fmt.Sprintf("-trials=%d", trials))
		if err != nil {
			return err
		}
		m, err := measured(out, fmt.Sprintf("BenchmarkScale/%d", size.members))
		if err != nil {
			return err
		}
		many := ""
		if _, any := m["third-worst"]; any {
			many = fmt.Sprintf("; a tenth at once %s, a third cut off %s", milliseconds(m["tenth-worst"]), milliseconds(m["third-worst"]))
		}
		b.found(name, m["one-worst"], "worst of %d; median %s%s; LAN defaults %.1f s, %.0f x",
			trials, milliseconds(m["one-median"]), many, m["lan-one-median"], m["lan-one-median"]/m["one-median"])
		b.found(name+"-cost", m["B/s"], "%.0f packets/s, %.2f %% CPU; LAN defaults %.0f x less, %.1f packets/s, %.2f %% CPU",
			m["packets/s"], m["%cpu"], m["B/s"]/m["lan-B/s"], m["lan-packets/s"], m["lan-%cpu"])
		wrong += m["loss-0-wrong"] + m["loss-0.01-wrong"] + m["loss-0.05-wrong"]
		atTen += m["loss-0.1-wrong"]
		living += size.members
	}
	if living > 0 {
		b.found("gossip/wrong", wrong, "of %d members, at 0, 1 and 5 %% loss; at 10 %% %.0f", living, atTen)
	}
	return nil
}

func milliseconds(s float64) string { return fmt.Sprintf("%.0f ms", 1000*s) }

// gossipOnSockets runs three members in real time over loopback.
func gossipOnSockets(ctx context.Context, b *bench) error {
	out, err := testMembership(ctx, "-run=^$", "-bench=^BenchmarkCluster$/^3$", "-benchtime=1x")
	if err != nil {
		return err
	}
	m, err := measured(out, "BenchmarkCluster/3")
	if err != nil {
		return err
	}
	b.found("gossip/sockets", m["%cpu/member"]/100, "each of 3 in real time, over loopback; %.0f packets/s, %.1f kB/s", m["packets/s/member"], m["B/s/member"]/1000)
	return nil
}

func testMembership(ctx context.Context, args ...string) ([]byte, error) {
	root, err := lab.Root()
	if err != nil {
		return nil, err
	}
	// The package comes before the arguments that are its own.
	at := slices.Index(args, "-args")
	if at < 0 {
		at = len(args)
	}
	args = slices.Concat([]string{"test", "-timeout=30m"}, args[:at], []string{"./internal/election/membership"}, args[at:])
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	cmd.Env = append(cmd.Environ(), "GOGC=400") // Hundreds of members in one process.
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return out, nil
}

// measured returns what a benchmark reported, by unit.
func measured(out []byte, name string) (map[string]float64, error) {
	line := regexp.MustCompile("^" + regexp.QuoteMeta(name) + `(-\d+)?$`)
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 || !line.MatchString(fields[0]) {
			continue
		}
		m := map[string]float64{}
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			m[fields[i+1]] = value
		}
		return m, nil
	}
	return nil, fmt.Errorf("no %s in\n%s", name, out)
}
