package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// account is who the application runs as.
type account struct {
	uid, gid int
	groups   []int
	home     string
}

// resolveUser understands Docker's USER: empty, or a user, or user:group, each a name or a number. Names must be in the image's files. An
// explicit group leaves out the user's further groups.
func resolveUser(text, passwdFile, groupFile string) (account, error) {
	passwd, err := readTable(passwdFile)
	if err != nil {
		return account{}, err
	}
	groups, err := readTable(groupFile)
	if err != nil {
		return account{}, err
	}
	userText, groupText, explicit := strings.Cut(text, ":")
	found, name, err := findUser(userText, passwd)
	if err != nil {
		return account{}, err
	}
	if explicit && groupText != "" {
		found.gid, err = findGroup(groupText, groups)
		return found, err
	}
	found.groups = groupsOf(name, groups)
	return found, nil
}

// readTable reads lines of fields divided by colons; an image need not have the file.
func readTable(path string) ([][]string, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var table [][]string
	for line := range strings.Lines(string(text)) {
		table = append(table, strings.Split(strings.TrimSpace(line), ":"))
	}
	return table, nil
}

// findUser returns the account without its groups, and the name it has in passwd, if any.
func findUser(text string, passwd [][]string) (account, string, error) {
	if text == "" {
		text = "0"
	}
	number, notNumber := parseID(text)
	for _, row := range passwd {
		if len(row) < 6 {
			continue
		}
		uid, uidErr := parseID(row[2])
		gid, gidErr := parseID(row[3])
		if uidErr == nil && gidErr == nil && (row[0] == text || notNumber == nil && uid == number) {
			return account{uid: uid, gid: gid, home: homeOr(row[5])}, row[0], nil
		}
	}
	if notNumber != nil {
		return account{}, "", fmt.Errorf("unable to find user %s: no matching entries in passwd file", text)
	}
	if number == 0 {
		return account{home: "/root"}, "root", nil
	}
	return account{uid: number, home: "/"}, "", nil
}

func homeOr(home string) string {
	if home == "" {
		return "/"
	}
	return home
}

func findGroup(text string, groups [][]string) (int, error) {
	number, notNumber := parseID(text)
	for _, row := range groups {
		if len(row) >= 3 && row[0] == text {
			return parseID(row[2])
		}
	}
	if notNumber != nil {
		return 0, fmt.Errorf("unable to find group %s: no matching entries in group file", text)
	}
	return number, nil
}

func groupsOf(name string, groups [][]string) []int {
	var found []int
	for _, row := range groups {
		if name == "" || len(row) < 4 || !slices.Contains(strings.Split(row[3], ","), name) {
			continue
		}
		if gid, err := parseID(row[2]); err == nil {
			found = append(found, gid)
		}
	}
	return found
}

func parseID(text string) (int, error) {
	id, err := strconv.ParseUint(text, 10, 31)
	return int(id), err
}
