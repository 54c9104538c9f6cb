package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// A report is what a run prints.
type report struct {
	Machine machine   `json:"machine"`
	Begun   time.Time `json:"begun"`
	// Took is in seconds.
	Took    float64  `json:"took"`
	Figures []figure `json:"figures"`
}

// A machine is where it was measured.
type machine struct {
	CPUs   int    `json:"cpus"`
	Model  string `json:"model"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	// Load is the load average of the minute before.
	Load string `json:"load"`
}

func describeMachine() machine {
	m := machine{CPUs: runtime.NumCPU(), Go: strings.TrimPrefix(runtime.Version(), "go"), Load: "?", Model: "?"}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load, _, _ = strings.Cut(string(b), " ")
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.Model = strings.TrimSpace(value)
				break
			}
		}
	}
	return m
}

func (r report) writeJSON(w io.Writer) error {
	for i := range r.Figures {
		r.Figures[i].Verdict = r.Figures[i].verdict()
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// width is that of the table, in columns.
const width = 100

func (r report) writeTable(w io.Writer) error {
	var table bytes.Buffer
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "row\tmeasured\tbudget\t\tbest peer\tdetail")
	budgets, missed := 0, 0
	for _, f := range r.Figures {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", f.Name, f.measured(), f.budget(), f.verdict(), f.Peer, f.Detail)
		if f.Budget != nil {
			budgets++
		}
		if v := f.verdict(); v == "MISSED" || v == "FAILED" {
			missed++
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(table.String()) {
		line = strings.TrimRight(line, " \n")
		if len(line) > width {
			line = line[:width-3] + "..." // JSON has all of it
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\n%d of %d budgets missed. %d CPUs, Linux %s, Go %s, load %s before; took %s.\n%s\n",
		missed, budgets, r.Machine.CPUs, r.Machine.Kernel, r.Machine.Go, r.Machine.Load,
		time.Duration(r.Took*float64(time.Second)), r.Machine.Model)
	return err
}

// writeList says what each row is.
func writeList(w io.Writer, rows []row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\n", r.Name, r.What)
	}
	return t.Flush()
}
