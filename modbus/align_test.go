package modbus

import (
	"testing"
	"time"
)

func TestNextAligned(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal("no time zones here: ", err) // Go's own distribution has them
	}
	tests := []struct {
		wall  string
		align time.Duration
		want  string
	}{
		{"2026-11-22 00:00:00.5", 15 * time.Minute, "2026-11-22 00:15:00 +0100"},
		{"2026-11-22 10:14:59.9", 15 * time.Minute, "2026-11-22 10:30:00 +0100"}, // the clock is a little behind
		{"2026-11-22 10:14:58", 15 * time.Minute, "2026-11-22 10:15:00 +0100"},
		{"2026-11-22 23:50:00", 15 * time.Minute, "2026-11-23 00:00:00 +0100"},
		{"2026-11-22 12:00:00", 24 * time.Hour, "2026-11-23 00:00:00 +0100"},
		{"2026-11-22 12:00:00.1", time.Second, "2026-11-22 12:00:01 +0100"},
		// At 02:00 it becomes 03:00.
		{"2026-03-29 01:50:00", 15 * time.Minute, "2026-03-29 03:00:00 +0200"},
		{"2026-03-29 00:10:00", 6 * time.Hour, "2026-03-29 06:00:00 +0200"},
		{"2026-03-29 12:00:00", 24 * time.Hour, "2026-03-30 00:00:00 +0200"},
		// At 03:00 it becomes 02:00.
		{"2026-10-25 00:10:00", 6 * time.Hour, "2026-10-25 06:00:00 +0100"},
		{"2026-10-25 03:10:00", 15 * time.Minute, "2026-10-25 03:15:00 +0100"},
	}
	for _, test := range tests {
		wall, err := time.ParseInLocation("2006-01-02 15:04:05.999", test.wall, berlin)
		if err != nil {
			t.Fatal(err)
		}
		if got := nextAligned(wall, test.align).Format("2006-01-02 15:04:05 -0700"); got != test.want {
			t.Errorf("%s, align %v: %s; want %s", test.wall, test.align, got, test.want)
		}
	}
	// The hour that comes twice is read in both times, in order.
	for at := time.Date(2026, 10, 25, 0, 0, 0, 0, time.UTC); at.Before(time.Date(2026, 10, 25, 3, 0, 0, 0, time.UTC)); at = at.Add(15 * time.Minute) {
		if got := nextAligned(at.In(berlin), 15*time.Minute); !got.Equal(at.Add(15 * time.Minute)) {
			t.Errorf("behind %v: %v", at.In(berlin), got)
		}
	}
}
