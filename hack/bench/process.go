package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is what /proc counts processor time in (USER_HZ, fixed at 100 for
// programs).
const clockTick = 10 * time.Millisecond

// processorTime is what a process has used so far, its kernel time included.
func processorTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStat(string(b))
}

// parseStat reads utime and stime, the 14th and 15th fields. The second, the
// command in parentheses, may have anything in it.
func parseStat(stat string) (time.Duration, error) {
	i := strings.LastIndexByte(stat, ')')
	fields := strings.Fields(stat[i+1:])
	if i < 0 || len(fields) < 13 {
		return 0, fmt.Errorf("not a line of /proc/PID/stat: %q", stat)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// A memory is a process's resident memory, in bytes. own is the part of now that
// is no file's: the rest is the program itself, as far as it was used.
type memory struct{ now, peak, own float64 }

func memoryOf(pid int) (memory, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, err
	}
	return parseStatus(string(b))
}

// parseStatus reads VmRSS, VmHWM and RssAnon, which are in units of 1024 bytes.
func parseStatus(status string) (memory, error) {
	var m memory
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		at := map[string]*float64{"VmRSS": &m.now, "VmHWM": &m.peak, "RssAnon": &m.own}[name]
		if at == nil {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
		if err != nil {
			return memory{}, fmt.Errorf("%q: %w", line, err)
		}
		*at = n * 1024
	}
	if m.now == 0 || m.peak == 0 {
		return memory{}, fmt.Errorf("no VmRSS and VmHWM in %q", status)
	}
	return m, nil
}
