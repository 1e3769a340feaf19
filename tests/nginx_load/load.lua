-- wrk -s load.lua URL -- FOLDER PATH NAME [WORDS]: each request is "POST PATH?id=LINE", with a line of its own. Lines that
-- were answered with status 200 go to FOLDER/answered.*, other answers to FOLDER/refused.*

local threads = 0
local count = 0

function setup(thread)
    threads = threads + 1
    thread:set("number", threads)
end

function init(words)
    path, name, more = words[2], words[3], words[4] or ""
    answered = open(words[1] .. "/answered.")
    refused = open(words[1] .. "/refused.")
end

function open(stem)
    local file = assert(io.open(stem .. name .. number, "a"))
    file:setvbuf("no") -- wrk ends without closing it
    return file
end

function request()
    count = count + 1
    return wrk.format("POST", path .. "?id=" .. name .. number .. "-" .. count .. more)
end

function response(status, headers, body)
    if status == 200 then
        answered:write(body)
    else
        refused:write(status, "\n")
    end
end
