package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"github.com/belfrylb/belfry/hack/lab"
)

// gossip runs clusters of members in one process, the large one in slow motion,
// by the benchmark of internal/election/membership, which has what it takes to
// crash one of them.
func gossip(ctx context.Context, b *bench) error {
	root, err := lab.Root()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-run=^$", "-bench=^BenchmarkCluster$/^(3|30|100)$", "-benchtime=1x", "-timeout=15m", "./internal/election/membership")
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	for _, size := range []string{"3", "30", "100"} {
		m, err := measured(out, "BenchmarkCluster/"+size)
		if err != nil {
			return err
		}
		b.found("gossip/"+size, m["ms-to-detect"]/1000, "each %.2f %% CPU, %.0f packets/s, %.1f kB/s", m["%cpu/member"], m["packets/s/member"], m["B/s/member"]/1000)
	}
	return nil
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
