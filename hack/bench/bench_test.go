package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

func TestEachRowIsMeasuredByOneExperiment(t *testing.T) {
	var measured []string
	for _, e := range experiments {
		measured = append(measured, e.rows...)
	}
	var rows []string
	for _, r := range catalog {
		rows = append(rows, r.Name)
	}
	slices.Sort(measured)
	slices.Sort(rows)
	if !slices.Equal(measured, rows) {
		t.Errorf("the experiments measure\n%v\nthe catalog has\n%v", measured, rows)
	}
	if distinct := slices.Compact(rows); len(distinct) != len(catalog) {
		t.Errorf("a row is there twice: %v", rows)
	}
}

func TestRowsAreSelectedByNameByFirstPartAndByPattern(t *testing.T) {
	for _, c := range []struct {
		only []string
		want []string
	}{
		{[]string{"lookup/miss"}, []string{"lookup/miss"}},
		{[]string{"idle"}, []string{"idle/controller", "idle/speaker"}},
		{[]string{"create/*-rss"}, []string{"create/controller-rss", "create/speaker-rss"}},
		{[]string{"answer/ndp", "answer/arp"}, []string{"answer/arp", "answer/ndp"}},
	} {
		rows, err := selected(c.only)
		if err != nil {
			t.Errorf("%v: %v", c.only, err)
		}
		var got []string
		for _, r := range rows {
			got = append(got, r.Name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v selects %v, want %v", c.only, got, c.want)
		}
	}
	if rows, err := selected(nil); err != nil || len(rows) != len(catalog) {
		t.Errorf("nothing selects %d rows (%v), want all", len(rows), err)
	}
	for _, wrong := range []string{"look", "lookup/mis", "", "["} {
		if rows, err := selected([]string{"idle", wrong}); err == nil {
			t.Errorf("%q selects %v", wrong, rows)
		}
	}
}

func TestAWrongCommandLineIsRefusedWithAllThatIsWrong(t *testing.T) {
	_, err := parse([]string{"--trials=0", "--services=5000", "--output=xml", "--only=nothing", "more"})
	if err == nil {
		t.Fatal("it is accepted")
	}
	for _, part := range []string{"--trials", "--services", "--output", "--only", "more"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("nothing about %s in %q", part, err)
		}
	}
}

// sample has a figure of every kind.
func sample() report {
	var all []figure
	for i, r := range catalog {
		f := figure{row: r, Value: 0.001}
		switch r.Unit {
		case inBytes:
			f.Value = 31.5e6
		case inCPU, inCount:
			f.Value = float64(i)
		}
		if i%2 == 0 {
			f.Detail = "2 create events, 2 patch services" + strings.Repeat(" and more", i%3)
		}
		all = append(all, f)
	}
	all[3].Missing = true
	return report{Machine: describeMachine(), Begun: time.Unix(0, 0), Took: 601, Figures: all}
}

func TestTheTableIsAtMostAHundredColumnsWide(t *testing.T) {
	var out bytes.Buffer
	if err := sample().writeTable(&out); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 100 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, part := range []string{"\nallocate/64k             - ", " FAILED\n", "took 10m1s", "...\n"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("no %q in\n%s", part, out.String())
		}
	}
}

func TestRequestsAreSummedUpByKind(t *testing.T) {
	var events []lab.AuditEvent
	for range 4 {
		e := lab.AuditEvent{Verb: "patch"}
		e.ObjectRef.Resource = "services"
		events = append(events, e)
	}
	e := lab.AuditEvent{Verb: "create"}
	e.ObjectRef.Resource = "events"
	events = append(events, e)
	for n, want := range map[int]string{1: "1 create events, 4 patch services", 2: "2 patch services"} {
		if got := kinds(events, n); got != want {
			t.Errorf("for each of %d: %q, want %q", n, got, want)
		}
	}
}

func TestABudgetIsMetMissedOrAbsent(t *testing.T) {
	for _, c := range []struct {
		row     string
		value   float64
		missing bool
		want    string
	}{
		{"failover/link", 0.16, false, "ok"},
		{"failover/link", 0.161, false, "MISSED"},
		{"failover/term", 0, false, "ok"},
		{"failover/term", 1, false, "MISSED"},
		{"restart/ready", 100, false, ""},
		{"restart/ready", 0, true, "FAILED"},
	} {
		f := figure{row: rowNamed(c.row), Value: c.value, Missing: c.missing}
		if got := f.verdict(); got != c.want {
			t.Errorf("%s at %v (missing: %v) is %q, want %q", c.row, c.value, c.missing, got, c.want)
		}
	}
}

func TestJSONHasTheValueTheBudgetAndTheVerdict(t *testing.T) {
	var out bytes.Buffer
	r := report{Figures: []figure{{row: rowNamed("lookup/miss"), Value: 60e-9}, {row: rowNamed("restart/cpu"), Missing: true}}}
	if err := r.writeJSON(&out); err != nil {
		t.Fatal(err)
	}
	var got struct{ Figures []map[string]any }
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if f := got.Figures[0]; f["row"] != "lookup/miss" || f["value"] != 60e-9 || f["budget"] != 50e-9 || f["unit"] != "s" || f["verdict"] != "MISSED" {
		t.Errorf("%v", f)
	}
	if f := got.Figures[1]; f["verdict"] != "FAILED" || f["missing"] != true || f["budget"] != nil {
		t.Errorf("%v", f)
	}
}

func TestValuesAreWrittenWithThreeDigits(t *testing.T) {
	for _, c := range []struct {
		unit  unit
		value float64
		want  string
	}{
		{inSeconds, 0, "0 ns"},
		{inSeconds, 37.4e-9, "37 ns"},
		{inSeconds, 1.954e-6, "1.95 us"},
		{inSeconds, 0.3964, "396 ms"},
		{inSeconds, 5.6, "5.6 s"},
		{inSeconds, -0.002, "-2 ms"},
		{inCPU, 3.456, "3.46 CPU-s"},
		{inBytes, 31457280, "31.5 MB"},
		{inBytes, 5580, "5.58 kB"},
		{inRatio, 2.078, "2.08 x"},
		{inCount, 123456, "123456"},
		{inCount, 4.0197, "4.02"},
	} {
		if got := c.unit.format(c.value); got != c.want {
			t.Errorf("%v %s is %q, want %q", c.value, c.unit, got, c.want)
		}
	}
}

func TestProcessorTimeIsReadAlsoOfACommandWithBlanksAndParentheses(t *testing.T) {
	const stat = "17 (a) b (c)) S 1 17 17 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 9 0 100 1000 200\n"
	if got, err := parseStat(stat); err != nil || got != 4*time.Second {
		t.Errorf("%v, %v; want 4 s", got, err)
	}
	for _, wrong := range []string{"", "17 (a", "17 (a) S 1", strings.Replace(stat, "250", "x", 1)} {
		if got, err := parseStat(wrong); err == nil {
			t.Errorf("%q gives %v", wrong, got)
		}
	}
}

func TestMemoryIsReadInBytes(t *testing.T) {
	got, err := parseStatus("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\nRssAnon:\t    512 kB\n")
	if want := (memory{now: 1 << 20, peak: 2 << 20, own: 1 << 19}); err != nil || got != want {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for _, wrong := range []string{"", "VmRSS:\t1 kB\n", "VmRSS:\tmuch kB\nVmHWM:\t1 kB\n"} {
		if got, err := parseStatus(wrong); err == nil {
			t.Errorf("%q gives %v", wrong, got)
		}
	}
}

func TestAQuantileIsTheEndOfItsBucket(t *testing.T) {
	metrics := map[string]float64{
		`x_bucket{le="0.001"}`: 10, `x_bucket{le="0.002"}`: 90, `x_bucket{le="0.004"}`: 100, `x_bucket{le="+Inf"}`: 100, "x_count": 100,
		`y_bucket{le="0.001"}`: 10, `y_bucket{le="+Inf"}`: 100, "y_count": 100,
	}
	for share, want := range map[float64]float64{0.1: 0.001, 0.5: 0.002, 0.9: 0.002, 0.99: 0.004} {
		if got, err := quantile(metrics, "x", share); err != nil || got != want {
			t.Errorf("%v of all: %v, %v; want %v", share, got, err, want)
		}
	}
	for _, name := range []string{"y", "z"} {
		if got, err := quantile(metrics, name, 0.5); err == nil {
			t.Errorf("%s tells %v", name, got)
		}
	}
}

func TestThisProcessUsesSomething(t *testing.T) {
	deadline := time.Now().Add(10 * time.Second)
	for {
		cpu, err := processorTime(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if cpu > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("ten seconds of asking used no processor time")
		}
	}
	if m, err := memoryOf(os.Getpid()); err != nil || m.now < 1<<20 || m.peak < m.now || m.own >= m.now {
		t.Errorf("memory %+v, %v", m, err)
	}
}

func TestQuestionsAreWhatTheRFCsSay(t *testing.T) {
	mac := net.HardwareAddr{2, 0xbe, 0x1f, 0, 0, 3}
	for _, c := range []struct{ sender, target, want string }{
		{
			"198.51.100.3", "198.51.100.200",
			"ffffffffffff 02be1f000003 0806 0001 0800 06 04 0001 02be1f000003 c6336403 000000000000 c63364c8",
		},
		{
			"2001:db8:51::3", "2001:db8:51::200",
			"3333ff000200 02be1f000003 86dd 60000000 0020 3a ff" +
				"20010db8005100000000000000000003 ff0200000000000000000001ff000200" +
				"8700 f7c6 00000000 20010db8005100000000000000000200 0101 02be1f000003",
		},
	} {
		got := question(mac, netip.MustParseAddr(c.sender), netip.MustParseAddr(c.target))
		if want := unhex(t, c.want); !bytes.Equal(got, want) {
			t.Errorf("for %s:\n%x, want\n%x", c.target, got, want)
		}
	}
}

func TestOnlyAnAnswerForTheAddressIsTakenForOne(t *testing.T) {
	for _, c := range []struct {
		name, target, frame string
		want                bool
	}{
		{"reply", "198.51.100.200", "02be1f000003 02be1f00000b 0806 0001 0800 06 04 0002 02be1f00000b c63364c8 02be1f000003 c6336403", true},
		{"reply for another", "198.51.100.200", "02be1f000003 02be1f00000b 0806 0001 0800 06 04 0002 02be1f00000b c63364c9 02be1f000003 c6336403", false},
		{"request", "198.51.100.200", "ffffffffffff 02be1f00000b 0806 0001 0800 06 04 0001 02be1f00000b c63364c8 000000000000 c63364c8", false},
		{"cut off", "198.51.100.200", "02be1f000003 02be1f00000b 0806 0001 0800 06 04 0002", false},
		{
			"advertisement", "2001:db8::9", "02be1f000003 02be1f00000b 86dd 60000000 0020 3a ff" + strings.Repeat("00", 32) +
				"8800 0000 60000000 20010db8000000000000000000000009 0201 02be1f00000b", true,
		},
		{
			"advertisement of another", "2001:db8::9", "02be1f000003 02be1f00000b 86dd 60000000 0020 3a ff" + strings.Repeat("00", 32) +
				"8800 0000 60000000 20010db8000000000000000000000008 0201 02be1f00000b", false,
		},
		{
			"solicitation", "2001:db8::9", "02be1f000003 02be1f00000b 86dd 60000000 0020 3a ff" + strings.Repeat("00", 32) +
				"8700 0000 00000000 20010db8000000000000000000000009 0101 02be1f00000b", false,
		},
	} {
		if got := isAnswer(unhex(t, c.frame), netip.MustParseAddr(c.target)); got != c.want {
			t.Errorf("%s for %s: %v, want %v", c.name, c.target, got, c.want)
		}
	}
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	var b []byte
	text = strings.ReplaceAll(text, " ", "")
	for ; len(text) > 1; text = text[2:] {
		b = append(b, hexDigit(text[0])<<4|hexDigit(text[1]))
	}
	return b
}

func hexDigit(c byte) byte { return byte(strings.IndexByte("0123456789abcdef", c)) }

func TestWhatIsComputedIsMeasured(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: takes seconds")
	}
	var out, progress bytes.Buffer
	if err := run(t.Context(), []string{"--only=lookup,allocate/exhausted"}, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	for _, row := range []string{"lookup/hit ", "lookup/miss ", "lookup/allocations  0 ", "allocate/exhausted "} {
		if !strings.Contains(out.String(), row) {
			t.Errorf("no %q in\n%s", row, out.String())
		}
	}
	if strings.Contains(out.String(), "FAILED") {
		t.Errorf("something could not be measured:\n%s%s", progress.String(), out.String())
	}
}

func TestThePageOnPerformanceHasEveryRow(t *testing.T) {
	page, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range catalog {
		if !strings.Contains(string(page), "\n"+r.Name+" ") {
			t.Errorf("docs/performance.md has no figure of %s", r.Name)
		}
	}
}

func TestWhatABenchmarkReportsIsRead(t *testing.T) {
	out := []byte("goos: linux\nBenchmarkCluster/100-2         \t       1\t26684213319 ns/op\t         0.2757 %cpu/member\t       607.0 ms-to-detect\nPASS\n")
	m, err := measured(out, "BenchmarkCluster/100")
	if err != nil || m["%cpu/member"] != 0.2757 || m["ms-to-detect"] != 607 {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := measured(out, "BenchmarkCluster/10"); err == nil {
		t.Error("a benchmark is found that did not run")
	}
}
